"""Judges of generated images, one file each, and the prompts of suites."""
