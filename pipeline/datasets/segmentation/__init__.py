"""Divides videos into segments."""
