"""Where pairs come from, and how their images are fetched."""
