"""Steps that make a corpus, and their work on one shard."""
