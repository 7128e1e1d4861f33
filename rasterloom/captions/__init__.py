"""Captions by models and columns: requests, answers, and checks of what came."""
