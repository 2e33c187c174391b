"""What the masks of decoding steps show."""

from __future__ import annotations

from typing import Any

import pytest

from .checked_engine import Ask, Setup

pytestmark = pytest.mark.model


def test_every_row_sees_something(llama: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of free slots too: what a fused kernel gives for a row that sees nothing is not defined everywhere."""
    from pipeline.captioning.backends import kernels

    original, seen = kernels.masked_attention, []

    def watched(query: Any, key: Any, value: Any, scale: float, mask: Any) -> Any:
        seen.append((mask.numpy() == 0).sum(-1)[:, 0, 0].tolist())
        return original(query, key, value, scale, mask)

    monkeypatch.setattr(kernels, "masked_attention", watched)
    engine = llama.engine(slots=3, check_every=2)
    engine.add(llama.request("alone", Ask(llama.cases_that(have_rules=False)[0])))
    engine.drain()
    assert any(len(row) == 3 for row in seen), "no slot was free"
    assert all(columns > 0 for row in seen for columns in row)
