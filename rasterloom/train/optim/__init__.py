"""The optimizer step, its schedule and DeepSpeed's engine."""
