"""Bits per byte of models with any tokenizer, their comparison, and the report that proves a fused model."""
