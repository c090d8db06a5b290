"""The server of one source: gRPC in front, the model in a thread of its own."""
