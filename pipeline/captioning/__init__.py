"""Captioning every clip of a meta table; `docs/architecture.md` draws the house."""
