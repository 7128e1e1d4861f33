"""Selection of images: scorers, duplicates, the keep rule."""
