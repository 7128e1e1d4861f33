"""Rasterloom: from a list of image-text pairs to a trained autoregressive image model."""

__version__ = "0.1.0"
