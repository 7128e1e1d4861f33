"""The model, its attention and loss."""
