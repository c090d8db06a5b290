"""Service `source`: one LLM behind gRPC that says how likely it finds every next token of a text."""
