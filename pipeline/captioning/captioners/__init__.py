"""Captioners: one package per model family behind the interface in `base`."""
