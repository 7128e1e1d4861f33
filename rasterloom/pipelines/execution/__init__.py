"""One step through Ray."""
