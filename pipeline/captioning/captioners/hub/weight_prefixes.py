"""Prefixes of weight names that all families of the layouts of transformers have. Reads no files."""

from __future__ import annotations

from collections.abc import Sequence

_ADAPTER = "base_model.model."
"""The prefix that PEFT puts before the names of the model that it was trained with."""


def with_adapters(prefixes: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Pairs of a stored prefix and the model's prefix, also for PEFT adapters of the whole model."""
    adapters = [(_ADAPTER + stored, model) for stored, model in prefixes]
    return (*adapters, (_ADAPTER, ""), *prefixes)
