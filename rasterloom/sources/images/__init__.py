"""Decoding, colour, resizing, perceptual hashes."""
