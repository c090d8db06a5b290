"""fusery: fuse several LLMs of different architectures and tokenizers into one."""

__version__ = "0.1.0"
