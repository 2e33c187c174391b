"""Captions every clip of a meta table. `docs/architecture.md` describes the packages."""
