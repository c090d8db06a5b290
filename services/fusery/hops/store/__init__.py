"""The only code that knows bytes: the wire's packing, Parquet shards, the store and its manifest."""
