"""Drawn scenes: their grammar and outlines, what an image of one shows, and whether that was asked."""
