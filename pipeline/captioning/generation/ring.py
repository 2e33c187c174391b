"""The ring buffer of generated tokens: which column a decoding step writes, and which columns of the cache a slot sees.

Knows nothing about models and about the content of the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..backends.kernels import MASKED
from .kv_cache import CacheShape
from .slots import Slot


@dataclass(frozen=True)
class DecodingStep:
    """A decoding step for all slots.

    column: column of the ring buffer that it writes.
    positions: int64 (slots, 1), of the tokens to feed.
    mask: float32 (slots, 1, 1, columns of the cache), 0 or MASKED.
    """

    column: int
    positions: np.ndarray
    mask: np.ndarray


class RingBuffer:
    """The step that last wrote each column. An answer sees the columns that were written since its second token.

    step_number: number of the next decoding step.
    next_column: the column that it writes, which is the oldest one.
    """

    def __init__(self) -> None:
        self.step_number = self.next_column = 0
        self._written = np.empty(0, np.int64)

    def reset(self, columns: int) -> None:
        """Begin with an empty ring buffer of this size."""
        self._written = np.full(columns, -1)
        self.next_column = 0

    def resize(self, columns: int) -> None:
        """Remove the oldest columns, or add columns after the newest. The oldest becomes the first, as in
        `SlotCache.resize`."""
        kept = np.roll(self._written, -self.next_column)[-columns:]
        self._written = np.append(kept, np.full(columns - len(kept), -1))
        self.next_column = len(kept) % columns

    def plan(self, slots: Sequence[Slot | None], shape: CacheShape, steps: int) -> list[DecodingStep]:
        """The next steps, which do not depend on the tokens.

        slots: the slot of each row; None if the row's token is not used.
        """
        prompt = shape.prefix + shape.ring  # first prompt column
        mask = np.full((shape.slots, shape.columns), MASKED, np.float32)
        positions = np.zeros((shape.slots, 1), np.int64)
        for row, slot in enumerate(slots):
            if slot is None:
                continue
            mask[row, : shape.prefix if slot.has_prefix else 0] = 0
            mask[row, shape.prefix : prompt][self._written >= slot.first_step] = 0
            mask[row, prompt : prompt + slot.length] = 0
            # The token to feed is the last one generated.
            positions[row] = slot.next_position + len(slot.ids) - 1
        plan = []
        for ahead in range(steps):
            column = self.next_column
            self._written[column] = self.step_number
            self.step_number += 1
            self.next_column = (column + 1) % shape.ring
            mask[:, shape.prefix + column] = 0  # for rows without a slot too: every row must see at least one column
            plan.append(DecodingStep(column, positions + ahead, mask[:, None, None].copy()))
        return plan
