"""Operations that turn the times of scene tools into the columns `start` and `end`, in seconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.names import END_COLUMN, RANGE_COLUMNS, START_COLUMN, column_list
from pipeline.captioning.process.errors import UsageError

from .operation import Settings
from .tables import as_text, with_column

TIMESTAMP_COLUMN = "timestamp"
_TIME = r"(?:\d+:)?(?:\d+:)?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_PAIR = re.compile(rf"\s*({_TIME})\s*(?:-->|[,;–-]|\bto\b)\s*({_TIME})\s*,?\s*")  # noqa: RUF001
_INNERMOST = re.compile(r"[\[(]([^\[\]()]*)[\])]")
_BETWEEN = re.compile(r"[\[\]()\s,;]*")
_COMMA_DECIMALS = re.compile(r"(:\d+),(\d{3})(?!\d)")
_MAX_SECONDS = 1e9
_SHOWN = 60


def timestamp_to_range(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    """Makes `start` and `end` of the column `timestamp`: a row for each pair of times, with all other cells.

    Blank cells and empty lists give one row without times: the whole file.

    Raises:
        UsageError: a cell is not understood, or the table has times already.
    """
    for name in RANGE_COLUMNS:
        if name in frame and not all(map(_is_blank, as_text(frame[name]).tolist())):
            raise UsageError(f"--timestamp-to-range would replace the cells of the column '{name}'; rename it first")
    cells = as_text(frame[TIMESTAMP_COLUMN]).tolist()
    found = [_read(pairs_of, TIMESTAMP_COLUMN, row, cell) or [(None, None)] for row, cell in enumerate(cells)]
    rows = [row for row, pairs in enumerate(found) for _ in pairs]
    pairs = [pair for of_row in found for pair in of_row]
    return _with_times(frame.iloc[rows].reset_index(drop=True), [[pair[i] for pair in pairs] for i in range(2)])


def timecode_to_seconds(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    """Converts time codes in `start` and `end` to seconds. Seconds and blank cells stay as they are.

    Raises:
        UsageError: the table has none of these columns, or a cell is not understood.
    """
    columns = [name for name in RANGE_COLUMNS if name in frame]
    if not columns:
        raise UsageError(
            f"--timecode-to-seconds needs a column 'start' or 'end'; the table's columns: {column_list(frame.columns)}"
        )
    for name in columns:
        cells = as_text(frame[name]).tolist()
        times = [_read(seconds_of, name, row, cell) if not _is_blank(cell) else None for row, cell in enumerate(cells)]
        frame = with_column(frame, name, times, "Float64")
    return frame


def pairs_of(cell: str) -> list[tuple[float, float]]:
    """The pairs of start and end in a cell, in seconds; empty for a blank cell and for an empty list.

    Forms: `1.2-5.6`, `00:00:01.2 --> 00:00:03.4`, `['0:00:01.2', '0:00:03.4']`, `("1.2", "3.4")`, and lists of these
    in brackets.

    Raises:
        ValueError: another form.
    """
    if _is_blank(cell):
        return []
    text = re.sub(r"['\"]", "", cell)
    if "-->" in text:
        text = _COMMA_DECIMALS.sub(r"\1.\2", text)  # of subtitles: 00:00:01,200
    parts = [text]
    if _INNERMOST.search(text):
        parts = [part for part in _INNERMOST.findall(text) if part.strip()]
        if not _BETWEEN.fullmatch(_INNERMOST.sub("", text)):
            raise ValueError(cell)
    pairs = []
    for part in parts:
        match = _PAIR.fullmatch(part)
        if match is None:
            raise ValueError(cell)
        pairs.append((seconds_of(match[1]), seconds_of(match[2])))
    return pairs


def seconds_of(cell: str) -> float:
    """A time in seconds: `83.5`, or a time code of minutes and seconds (`1:23.5`), or with hours (`0:01:23.5`).

    Raises:
        ValueError: it is neither.
    """
    *larger, seconds = cell.strip().split(":")
    numbers = [int(part) for part in larger]
    if len(numbers) > 2 or any(number < 0 for number in numbers) or any(number >= 60 for number in numbers[1:]):
        raise ValueError(cell)
    time = float(seconds)
    if larger and not 0 <= time < 60:
        raise ValueError(cell)
    for unit, number in zip((60, 3600), reversed(numbers), strict=False):
        time += unit * number
    if not abs(time) < _MAX_SECONDS:
        raise ValueError(cell)
    start = TimeRange.from_cells(repr(time), "")
    assert start is not None
    return start.start / 1000


def _is_blank(cell: str) -> bool:
    return cell.strip().lower() in ("", "nan")


def _read(read: Callable[[str], Any], column: str, row: int, cell: str) -> Any:
    try:
        return read(cell)
    except ValueError:
        raise UsageError(
            f"column '{column}', row {row}: {cell[:_SHOWN]!r} is not understood; write time codes such as 0:01:23.456 "
            f"or seconds{', as a pair or a list of pairs' if column == TIMESTAMP_COLUMN else ''}"
        ) from None


def _with_times(frame: pd.DataFrame, times: Sequence[Sequence[float | None]]) -> pd.DataFrame:
    for name, column in zip((START_COLUMN, END_COLUMN), times, strict=True):
        frame = with_column(frame, name, column, "Float64")
    return frame
