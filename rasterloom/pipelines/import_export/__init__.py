"""Tables and tokens in; data sets, cards and embeddings out."""
