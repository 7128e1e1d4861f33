"""Use cases of trained models."""
