"""Held-out loss, metrics and trackers."""
