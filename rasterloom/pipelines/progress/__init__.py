"""Progress of a run, and its displays."""
