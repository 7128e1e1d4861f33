"""Takedown, garbage collection and rewriting of files."""
