"""Texts: found, read, split, sampled and published as shards."""
