"""Sampling of images and texts from a trained model."""
