"""Families in the layout of transformers' checkpoints: one module for each, on a common source and captioner."""
