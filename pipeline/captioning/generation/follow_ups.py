"""Selects follow-ups for one step of the engine and builds the batches of their prefill. Knows nothing about models.

A follow-up is the text after the part of a prompt that a slot already has in the cache. Most follow-ups are short, so
those of several slots are computed in one forward pass; a long one is computed in several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..backends.kernels import MASKED
from .kv_cache import CacheShape
from .prefill import padded_positions, padded_rows
from .requests import FollowUp
from .slots import Slot

_PASS_TOKENS = 512
"""Maximum number of tokens in one forward pass, with padding. It bounds the size of the mask, and of the scores where
the attention kernel keeps them; more tokens would not be faster."""
_CHEAP_PADDING = 64
"""Padding of this number of tokens takes less time than a further forward pass, which reads all weights."""


@dataclass(frozen=True)
class FollowUpPass:
    """One forward pass over follow-ups, or over a part of a long one.

    slots: the slot of each row.
    begins, ends: prompt columns of the tokens of each row; the end is exclusive.
    embeddings: (rows, tokens, width), padded on the right.
    positions: (rows, tokens) or (3, rows, tokens).
    mask: float32 (rows, 1, tokens, columns), 0 or MASKED: the columns of the cache up to the last one that is needed.
    last: for each row the index of the follow-up's last token; None if a later pass has it.
    """

    slots: list[int]
    begins: list[int]
    ends: list[int]
    embeddings: torch.Tensor
    positions: np.ndarray
    mask: np.ndarray
    last: list[int | None]


@dataclass(frozen=True)
class _Row:
    """The tokens from `begin` to `end` (exclusive) of a follow-up."""

    index: int
    slot: Slot
    follow_up: FollowUp
    begin: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.begin


def next_follow_ups(slots: Mapping[int, Slot], max_tokens: int) -> list[int]:
    """Indices of the slots whose follow-ups are prefilled next: those that have waited longest.

    slots: slots by index.
    max_tokens: maximum number of their tokens; the first one is taken even if it has more.
    """
    group: list[int] = []
    total = 0
    waiting = [(slot.waits_since, index, slot.follow_up) for index, slot in slots.items() if slot.follow_up]
    for _, index, follow_up in sorted(waiting, key=lambda one: one[:2]):
        total += follow_up.length
        if group and total > max_tokens:
            break
        group.append(index)
    return group


def passes(slots: Mapping[int, Slot], shape: CacheShape) -> Iterator[FollowUpPass]:
    """The forward passes that prefill the follow-ups of these slots. They must run in this order.

    slots: slots by index; each has a follow-up.
    """
    long: list[_Row] = []
    short: list[_Row] = []
    for index, slot in slots.items():
        assert slot.follow_up is not None
        length = slot.follow_up.length
        for begin in range(0, length, _PASS_TOKENS):
            row = _Row(index, slot, slot.follow_up, begin, min(length, begin + _PASS_TOKENS))
            (short if length <= _PASS_TOKENS else long).append(row)
    for rows in [*([row] for row in long), *_batches(short)]:
        yield _pass(sorted(rows, key=lambda row: row.index), shape)


def _batches(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows of similar length, and with the same number of position axes."""
    batch: list[_Row] = []
    total = 0
    for row in sorted(rows, key=lambda row: (row.follow_up.positions.ndim, row.length)):
        padded_tokens = (len(batch) + 1) * row.length
        is_too_much = padded_tokens > min(_PASS_TOKENS, total + row.length + _CHEAP_PADDING)
        if batch and (is_too_much or batch[0].follow_up.positions.ndim != row.follow_up.positions.ndim):
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += row.length
    if batch:
        yield batch


def _pass(rows: Sequence[_Row], shape: CacheShape) -> FollowUpPass:
    tokens = max(row.length for row in rows)
    prompt = shape.prefix + shape.ring  # first prompt column
    begins = [row.slot.shared + row.begin for row in rows]
    ends = [row.slot.shared + row.end for row in rows]
    columns = np.arange(prompt + max(ends))
    visible = np.empty((len(rows), tokens, len(columns)), bool)
    for seen, row, begin, end in zip(visible, rows, begins, ends, strict=True):
        # Padding sees what the last token sees.
        newest = np.minimum(begin + np.arange(tokens), end - 1)
        seen[:] = (columns >= prompt) & (columns <= prompt + newest[:, None])
        seen[:, : shape.prefix if row.slot.has_prefix else 0] = True
    return FollowUpPass(
        slots=[row.index for row in rows],
        begins=begins,
        ends=ends,
        embeddings=torch.stack([padded_rows(row.follow_up.embeddings[row.begin : row.end], tokens) for row in rows]),
        positions=np.stack(
            [padded_positions(row.follow_up.positions[..., row.begin : row.end], tokens) for row in rows], -2
        ),
        mask=np.where(visible[:, None], np.float32(0), np.float32(MASKED)),
        last=[row.length - 1 if row.end == row.follow_up.length else None for row in rows],
    )
