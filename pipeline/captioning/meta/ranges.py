"""The columns `start` and `end` of a table: the part of its file that each row is. Opens no file.

A row is identified by its path and its range. Times that are the same millisecond are the same time: `10`, `10.0` and
`1e1` are one range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import overload

import numpy as np

from ..clips.downloads.urls import without_credentials
from ..clips.time_range import TimeRange, seconds_text
from ..process.errors import UsageError
from .names import END_COLUMN, RANGE_COLUMNS, START_COLUMN

_NONE = -(2**63)
"""Stands for a missing time."""
_MAX_SECONDS = 1e12
_SHOWN = 60
"""Characters of a cell that a message shows."""


class Ranges(Sequence[TimeRange | None]):
    """The range of each row; None for the whole file. 16 bytes a row: a range is made when it is asked for.

    starts, ends: int64, in milliseconds; _NONE for a missing time.
    """

    def __init__(self, starts: np.ndarray, ends: np.ndarray) -> None:
        self._starts, self._ends = np.where((starts == _NONE) & (ends != _NONE), 0, starts), ends

    @property
    def parts(self) -> int:
        """Number of rows that have a range."""
        return int(np.count_nonzero(self._starts != _NONE))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, row: int) -> TimeRange | None: ...

    @overload
    def __getitem__(self, row: slice) -> list[TimeRange | None]: ...

    def __getitem__(self, row: int | slice) -> TimeRange | list[TimeRange | None] | None:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        start, end = int(self._starts[row]), int(self._ends[row])
        return None if start == _NONE else TimeRange(start, None if end == _NONE else end)


NO_RANGES = Ranges(np.empty(0, np.int64), np.empty(0, np.int64))
"""Of a table whose rows all are whole files."""


def read_ranges(table: str, cells: Mapping[str, Sequence[str]]) -> Ranges:
    """The ranges of all rows, as `range_of_cells` makes them; NO_RANGES if no row has one.

    table: for messages. cells: the text form of the cells of those of RANGE_COLUMNS that the table has.

    Raises:
        UsageError: a cell is neither blank nor a number.
    """
    rows = max(map(len, cells.values()), default=0)
    times = [_milliseconds(table, name, cells[name]) if name in cells else _no_times(rows) for name in RANGE_COLUMNS]
    ranges = Ranges(*times)
    return ranges if ranges.parts else NO_RANGES


def _no_times(rows: int) -> np.ndarray:
    return np.full(rows, _NONE, np.int64)


def _milliseconds(table: str, column: str, cells: Sequence[str]) -> np.ndarray:
    """The times of a column, as `TimeRange.from_cells` reads and rounds them, but for all rows at once."""
    seconds = np.fromiter(map(_seconds, cells), np.float64, len(cells))
    missing = np.isnan(seconds)
    wrong = ~missing & ~(np.abs(seconds) < _MAX_SECONDS)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise not_a_time(table, row, column, cells[row])
    times = _no_times(len(cells))
    times[~missing] = np.floor(seconds[~missing] * 1000 + 0.5).astype(np.int64)
    return times


def _seconds(cell: str) -> float:
    """The number in a cell: NaN for a blank one, infinity for one that is not a number.

    The text `nan` is a blank cell: it is what a missing number of a Parquet table becomes in a CSV table.
    """
    if not cell:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return math.inf if cell.strip() else math.nan


def range_of_cells(start: str, end: str) -> TimeRange | None:
    """The range that two cells in their text form describe; None for the whole file.

    Raises:
        ValueError: a cell is not a time; the argument is the cell.
    """
    times = [_seconds(cell) for cell in (start, end)]
    for cell, seconds in zip((start, end), times, strict=True):
        if not math.isnan(seconds) and not abs(seconds) < _MAX_SECONDS:
            raise ValueError(cell)
    return TimeRange.from_cells(*("" if math.isnan(seconds) else str(seconds) for seconds in times))


def not_a_time(table: str, row: int, column: str, cell: str) -> UsageError:
    """The error about a cell of `start` or `end`."""
    return UsageError(
        f"{table}: column '{column}', row {row}: {cell[:_SHOWN]!r} is not a time in seconds. The columns "
        f"'{START_COLUMN}' and '{END_COLUMN}' say which part of its file a row is: write seconds (datautil "
        "--timecode-to-seconds converts time codes), or give --whole_files if the columns mean something else"
    )


def row_keys(paths: Sequence[str], ranges: Sequence[TimeRange | None]) -> Sequence[Hashable]:
    """What identifies each row, without its number: the path, or path and range.

    ranges: empty if no row has one.
    """
    if not ranges:
        return paths
    return [path if part is None else (path, part) for path, part in zip(paths, ranges, strict=True)]


def matching_rows(keys: Sequence[Hashable], earlier_keys: Sequence[Hashable]) -> list[int]:
    """For each row, the row of an earlier table that matches it; -1 for none.

    The n-th occurrence of a key (`row_keys`) matches its n-th occurrence in the earlier table.
    """
    occurrence = _occurrence_counter()
    earlier = {(key, occurrence(key)): row for row, key in enumerate(earlier_keys)}
    occurrence = _occurrence_counter()
    return [earlier.get((key, occurrence(key)), -1) for key in keys]


def _occurrence_counter() -> Callable[[Hashable], int]:
    """A function that returns how many times it was called with the same key before."""
    last: dict[Hashable, int] = {}

    def occurrence(key: Hashable) -> int:
        last[key] = last.get(key, -1) + 1
        return last[key]

    return occurrence


def range_fields(part: TimeRange | None) -> dict[str, float | None]:
    """The range of a row in JSON: start and end in seconds, null for the end of the file; no field without a range."""
    if part is None:
        return {}
    return {START_COLUMN: part.start / 1000, END_COLUMN: None if part.end is None else part.end / 1000}


def range_of_fields(record: Mapping[str, object]) -> TimeRange | None:
    """The inverse of `range_fields`.

    Raises:
        ValueError: a field is not a number.
    """
    if START_COLUMN not in record:
        return None
    start, end = (record.get(name) for name in RANGE_COLUMNS)
    return range_of_cells(str(start), "" if end is None else str(end))


def range_suffix(part: TimeRange | None) -> str:
    """What the range adds to the name of a file: `_12.500-20.000`, `_12.500-end`; '' for the whole file."""
    if part is None:
        return ""
    return f"_{seconds_text(part.start)}-{'end' if part.end is None else seconds_text(part.end)}"


def row_name(path: str, part: TimeRange | None) -> str:
    """A row for messages: its path without credentials, and its range."""
    return without_credentials(path) if part is None else f"{without_credentials(path)}, {part}"
