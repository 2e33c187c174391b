"""The columns `start` and `end` of a table: the part of its file that each row is. Opens no file.

A row is identified by its path and its range. Times that are the same millisecond are the same time: `10`, `10.0` and
`1e1` are one range.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import overload

from ..clips.downloads.urls import without_credentials
from ..clips.time_range import TimeRange, seconds_text
from ..process.errors import UsageError
from .names import END_COLUMN, RANGE_COLUMNS, START_COLUMN

_NONE = -(2**63)
"""Stands for a missing time in the arrays of `Ranges`."""
_MAX_SECONDS = 1e12
_SHOWN = 60
"""Characters of a cell that a message shows."""


class Ranges(Sequence[TimeRange | None]):
    """The range of each row; None for the whole file. 16 bytes a row: ranges are made when they are asked for.

    parts: number of rows that have a range.
    """

    def __init__(self) -> None:
        self._starts, self._ends = array("q"), array("q")
        self.parts = 0

    def append(self, part: TimeRange | None) -> None:
        """Add the range of the next row."""
        self.parts += part is not None
        self._starts.append(_NONE if part is None else part.start)
        self._ends.append(_NONE if part is None or part.end is None else part.end)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, row: int) -> TimeRange | None: ...

    @overload
    def __getitem__(self, row: slice) -> list[TimeRange | None]: ...

    def __getitem__(self, row: int | slice) -> TimeRange | list[TimeRange | None] | None:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        start, end = self._starts[row], self._ends[row]
        return None if start == _NONE else TimeRange(start, None if end == _NONE else end)


NO_RANGES = Ranges()
"""Of a table whose rows all are whole files."""


def read_ranges(table: str, cells: Mapping[str, Sequence[str]]) -> Ranges:
    """The ranges of all rows; NO_RANGES if no row has one.

    table: for messages. cells: the text form of the cells of those of RANGE_COLUMNS that the table has.

    Raises:
        UsageError: a cell is neither blank nor a number.
    """
    ranges = Ranges()
    rows = max(map(len, cells.values()), default=0)
    starts, ends = (cells.get(name) or [""] * rows for name in RANGE_COLUMNS)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if start or end:
            try:
                ranges.append(range_of_cells(start, end))
            except ValueError as error:
                column, cell = (START_COLUMN, start) if error.args[0] == start else (END_COLUMN, end)
                raise not_a_time(table, row, column, cell) from None
        else:
            ranges.append(None)
    return ranges if ranges.parts else NO_RANGES


def range_of_cells(start: str, end: str) -> TimeRange | None:
    """The range that two cells in their text form describe; None for the whole file.

    `nan` is a blank cell: it is what a missing number of a Parquet table becomes in a CSV table.

    Raises:
        ValueError: a cell is not a time; the argument is the cell.
    """
    start, end = ("" if cell.strip().lower() == "nan" else cell for cell in (start, end))
    for cell in (start, end):
        if cell.strip() and not _is_time(cell):
            raise ValueError(cell)
    return TimeRange.from_cells(start, end)


def _is_time(cell: str) -> bool:
    try:
        return abs(float(cell)) < _MAX_SECONDS
    except ValueError:
        return False


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
