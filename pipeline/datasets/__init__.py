"""Utilities for meta tables: make them from folders; merge, compare, filter and clean them."""
