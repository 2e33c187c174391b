"""Batched decoding of token ids; knows no video, no tokenizer and no checkpoint."""
