"""Codecs, one module each."""
