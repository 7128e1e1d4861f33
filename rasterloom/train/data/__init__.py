"""Rows, batches and the data loader."""
