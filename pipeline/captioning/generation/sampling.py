"""Sampling that depends on the seed and the row alone: not on batch, rank or framework.

Framework generators won't do: mindnlp's ignore their seed, and a batch shares one stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class RowSampler:
    """Draws the next token of each row of a batch, from a random stream of the row's own."""

    def __init__(self, rows: Sequence[int], seed: int, temperature: float, top_p: float) -> None:
        self._streams = [np.random.Generator(np.random.Philox([seed, row])) for row in rows]
        self._temperature = temperature
        self._top_p = top_p

    def draw(self, logits: np.ndarray) -> np.ndarray:
        """Next token ids (batch,) int64 from logits (batch, vocabulary)."""
        drawn = [
            _draw(row_logits, stream.random(), self._temperature, self._top_p)
            for row_logits, stream in zip(logits.astype(np.float64), self._streams, strict=True)
        ]
        return np.array(drawn, np.int64)


def _draw(logits: np.ndarray, uniform: float, temperature: float, top_p: float) -> int:
    scaled = (logits - logits.max()) / temperature
    order = np.argsort(-scaled, kind="stable")
    cumulative = np.cumsum(np.exp(scaled[order]))
    # The nucleus: as few of the likeliest tokens as hold top_p of the probability.
    size = int(np.searchsorted(cumulative, top_p * cumulative[-1])) + 1
    position = np.searchsorted(cumulative[:size], uniform * cumulative[min(size, len(order)) - 1], side="right")
    return int(order[min(position, size - 1, len(order) - 1)])
