"""Which shards are missing, published to workers, counted and given up."""
