"""Readers of sources, one module a format."""
