"""Captioners: one package for each model family; all implement the interface in `base`."""
