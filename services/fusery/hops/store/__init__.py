"""Artefacts, notes and leases in a folder or a bucket, and shards as Parquet."""
