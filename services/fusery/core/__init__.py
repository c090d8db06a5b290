"""Pure functions over arrays: no files, network, config, clock, logging, grpc, celery, mlflow or transformers.

Dimensions: T source tokens (rows) of a document, N target tokens, R evidence rows, K entries kept per
row, V entries of a vocabulary, C cells of a partition, S sources.
"""
