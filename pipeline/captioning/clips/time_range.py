"""A part of a file by time: what the columns `start` and `end` of a table say about a row. Opens no file.

Times are whole milliseconds: tables are often written with three decimals, so a cut at 3.336667 s, the time of a frame,
may stand there as 3.337. The frame is compared with the cut after both are rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_MISSING_MS, _MISSING_FRAMES = 500, 2
"""A file that ends earlier than a range by more than both lacks frames of it."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The frames of a file from `start` on and before `end`; the first frame of a file is at 0.

    start: in milliseconds. end: in milliseconds; None for the end of the file.
    """

    start: int
    end: int | None = None

    @classmethod
    def from_cells(cls, start: str, end: str) -> TimeRange | None:
        """The range that two cells describe, in seconds; None for two blank ones: the whole file.

        Raises:
            ValueError: a cell is not a finite number; the argument is the cell.
        """
        if not start.strip() and not end.strip():
            return None
        return cls(_milliseconds(start) or 0, _milliseconds(end))

    @property
    def problem(self) -> str:
        """Why no file has frames in this range: it is empty, reversed, or before the file; '' if a file may have."""
        if self.start < 0:
            return f"the range {self} begins before the file"
        if self.end is not None and self.end <= self.start:
            return f"the range {self} is {'empty' if self.end == self.start else 'reversed'}"
        return ""

    def contains(self, time: int) -> bool:
        """Whether a frame that is shown from `time` on, in milliseconds, is in the range."""
        return self.start <= time and (self.end is None or time < self.end)

    def check_begin(self, end: int, what: str) -> None:
        """Check that the range begins before the end of a file, in milliseconds.

        what: of which it is the end, for the message.

        Raises:
            ValueError: it does not.
        """
        if self.start >= end:
            raise ValueError(f"the range {self} begins after the end of {what} ({seconds_text(end)} s)")

    def is_longer_than(self, end: int, rate: float) -> bool:
        """Whether frames are missing because the file ends at `end`, in milliseconds, before the range does.

        A small difference is none: the end of a range may come from an inexact duration.

        rate: frames of the file per second; 0.0 if it is unknown.
        """
        least = max(_MISSING_MS, _MISSING_FRAMES * 1000 / rate if rate else 0)
        return self.end is not None and self.end - end > least

    @property
    def cells(self) -> tuple[str, str]:
        """The cells of a table that describe this range, in seconds with three decimals."""
        return seconds_text(self.start), "" if self.end is None else seconds_text(self.end)

    def to_json(self) -> Any:
        return [self.start, self.end]

    @classmethod
    def from_json(cls, value: Any) -> TimeRange:
        start, end = value
        return cls(start, end)

    def __str__(self) -> str:
        start, end = self.cells
        return f"{start} s to {f'{end} s' if end else 'the end'}"


def seconds_text(milliseconds: int) -> str:
    """A time in seconds with three decimals."""
    return f"{milliseconds / 1000:.3f}"


def _milliseconds(cell: str) -> int | None:
    """The time of a cell in seconds, rounded half up to milliseconds; None if it is blank.

    Raises:
        ValueError: it is not a finite number.
    """
    if not cell.strip():
        return None
    try:
        seconds = float(cell)
    except ValueError:
        raise ValueError(cell) from None
    if not math.isfinite(seconds):
        raise ValueError(cell)
    return math.floor(seconds * 1000 + 0.5)
