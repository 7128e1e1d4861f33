"""Cost, memory and FLOPs before training."""
