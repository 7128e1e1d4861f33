"""Writing, resuming and exporting checkpoints."""
