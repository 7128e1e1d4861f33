"""The workflow: steps over shards, the Ray runner, the wiring of corpus and training."""
