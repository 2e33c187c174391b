"""Captioned tables in the formats of trainers. `pipeline.datasets.export` is the command."""
