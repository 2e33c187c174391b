"""The columns `start` and `end` of frames: which part of its file each row is, and what identifies a row.

The columns have the same meaning as for the captioning commands (`pipeline.captioning.meta.ranges`).
"""

from __future__ import annotations

import pandas as pd

from pipeline.captioning.meta.names import PATH_COLUMN, RANGE_COLUMNS
from pipeline.captioning.meta.ranges import NO_RANGES, Ranges, range_suffix, read_ranges

from .operation import Settings
from .tables import STRING, as_text


def frame_ranges(frame: pd.DataFrame, settings: Settings, table: str = "the table") -> Ranges:
    """The part of its file that each row is; NO_RANGES if all rows are whole files.

    table: for messages.

    Raises:
        UsageError: a cell is neither blank nor a number.
    """
    if settings.whole_files:
        return NO_RANGES
    return read_ranges(table, {name: as_text(frame[name]).tolist() for name in _range_columns(frame)})


def row_suffixes(frame: pd.DataFrame, settings: Settings) -> list[str]:
    """What the range of each row adds to the name of its file; '' for a whole file. Errors as for `frame_ranges`."""
    return list(map(range_suffix, frame_ranges(frame, settings))) or [""] * len(frame)


def row_keys(frame: pd.DataFrame, settings: Settings, table: str = "the table") -> pd.Series:
    """What identifies each row: path and range. Errors and arguments as for `frame_ranges`."""
    return _keys(frame, frame_ranges(frame, settings, table))


def compared_keys(
    frame: pd.DataFrame, other: pd.DataFrame, other_name: str, settings: Settings
) -> tuple[pd.Series, pd.Series]:
    """What identifies the rows of two tables that are compared: the cells of `--key`; for paths, also the ranges.

    If only one of the tables has ranges as columns, the paths alone are compared, and a line is printed.

    Raises:
        UsageError: both tables have such columns, and a cell is neither blank nor a number.
    """
    key = settings.key
    having = [bool(_range_columns(table)) for table in (frame, other)]
    if key != PATH_COLUMN or settings.whole_files or not any(having):
        return frame[key], other[key]
    if not all(having):
        without = other_name if having[0] else "the table"
        print(f"{without} has no column {' or '.join(RANGE_COLUMNS)}, so rows are compared by their path alone")
        return frame[key], other[key]
    own, others = frame_ranges(frame, settings), frame_ranges(other, settings, f"table {other_name}")
    return _keys(frame, own), _keys(other, others)


def _range_columns(frame: pd.DataFrame) -> list[str]:
    return [name for name in RANGE_COLUMNS if name in frame]


def _keys(frame: pd.DataFrame, ranges: Ranges) -> pd.Series:
    paths = frame[PATH_COLUMN]
    if not ranges:
        return paths
    keys = [
        path if part is None else f"{path}\0{part.start}\0{part.end}"  # no path contains NUL
        for path, part in zip(as_text(paths).tolist(), ranges, strict=True)
    ]
    return pd.Series(keys, index=frame.index, dtype=STRING)
