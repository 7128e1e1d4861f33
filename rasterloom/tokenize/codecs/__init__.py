"""Codecs, one module each: networks that turn an image into a grid of codes and back."""
