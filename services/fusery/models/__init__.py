"""Models and their tokenizers: the only code that knows transformers."""
