"""Scores of an image, one module each."""
