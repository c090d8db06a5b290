"""What computes the answers of a source: a model here, or an inference server."""
