"""The masks of decoding steps."""

from __future__ import annotations

from typing import Any

import pytest

from .checked_engine import RequestSpec, Setup

pytestmark = pytest.mark.model


def test_every_row_sees_a_column(llama: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of free slots too: not every fused kernel defines its output for a row without a visible column."""
    from pipeline.captioning.backends import kernels

    original, visible = kernels.masked_attention, []

    def recording(query: Any, key: Any, value: Any, scale: float, mask: Any) -> Any:
        visible.append((mask.numpy() == 0).sum(-1)[:, 0, 0].tolist())
        return original(query, key, value, scale, mask)

    monkeypatch.setattr(kernels, "masked_attention", recording)
    engine = llama.engine(slots=3, check_every=2)
    engine.add(llama.request("alone", RequestSpec(llama.cases_that(have_rules=False)[0])))
    engine.drain()
    assert any(len(row) == 3 for row in visible), "no slot was free"
    assert all(columns > 0 for row in visible for columns in row)
