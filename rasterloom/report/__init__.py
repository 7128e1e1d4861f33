"""One HTML page that a person wants to look at."""
