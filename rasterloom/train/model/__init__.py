"""The model, its attention, loss and sampler."""
