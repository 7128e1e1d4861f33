"""Sources of pairs, and the fetching of their images."""
