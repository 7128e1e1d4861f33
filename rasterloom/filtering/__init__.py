"""What is kept, and why: scorers, duplicates, the keep rule."""
