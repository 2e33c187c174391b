"""Tools around training text-to-video models."""
