"""Views of a corpus that change nothing."""
