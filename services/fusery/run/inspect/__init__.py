"""What people look with: a source, a store, an alignment."""
