"""Batched decoding of token ids; knows nothing about videos, tokenizers and checkpoints."""
