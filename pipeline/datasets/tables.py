"""Reads meta tables from one or many files into one frame, and writes frames as tables.

CSV cells are read as strings and stay unchanged. Columns of Parquet tables keep their types. Knows nothing about
operations.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from glob import glob
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.captioning.meta.csv_cells import PLAIN_CSV, CsvStyle, read_csv_cells, write_csv
from pipeline.captioning.meta.files import atomic_write
from pipeline.captioning.meta.names import check_is_file, is_gzip, is_parquet
from pipeline.captioning.meta.parquet_cells import read_parquet, texts_of
from pipeline.captioning.process.errors import UsageError

STRING = pd.StringDtype("pyarrow")
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def expand(patterns: Iterable[str]) -> list[Path]:
    """The files that match names and patterns (`part*.csv`, `**/meta.csv`), each file once, in order.

    Raises:
        UsageError: a pattern matches no file.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        found = [pattern] if Path(pattern).exists() else sorted(glob(pattern, recursive=True))
        if not found:
            raise UsageError(f"no file matches '{pattern}'")
        files |= dict.fromkeys(map(Path, found))
    return list(files)


def read_tables(files: Sequence[Path]) -> pd.DataFrame:
    """All rows of all files; see `read_table` and `merge`."""
    return merge([read_table(path) for path in files])


def merge(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all frames in order. If a frame lacks a column, its cells in this column are empty.

    May change the frames in the argument.
    """
    if len(frames) == 1:
        return frames[0]
    columns = list(dict.fromkeys(name for frame in frames for name in frame.columns))
    for name in columns:
        dtypes = {frame[name].dtype for frame in frames if name in frame}
        if len(dtypes) > 1:  # for example, CSV and Parquet
            for frame in frames:
                if name in frame:
                    frame[name] = as_text(frame[name])
    merged = pd.concat(frames, ignore_index=True, sort=False)[columns]
    for name in columns:
        if merged[name].dtype == STRING:
            merged[name] = merged[name].fillna("")
    return merged


def read_table(path: Path) -> pd.DataFrame:
    """Read one file: as Parquet if it has that suffix, otherwise as CSV.

    Raises:
        UsageError: the file does not exist, can't be read, or has several columns of the same name.
    """
    check_is_file(path, "table")
    return _read_parquet(path) if is_parquet(path) else _read_csv(path)


def _read_csv(path: Path) -> pd.DataFrame:
    cells = read_csv_cells(path, dtype=STRING)
    names = [str(name) for name in cells.iloc[0]]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"table {path} has several columns named '{repeated[0]}'; keep one")
    frame = cells.iloc[1:].reset_index(drop=True)
    frame.columns = pd.Index(names)
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa

    strings = (pa.string(), pa.large_string())
    return read_parquet(path).to_pandas(types_mapper=lambda dtype: STRING if dtype in strings else pd.ArrowDtype(dtype))


def write_table(
    frame: pd.DataFrame, path: Path, style: CsvStyle = PLAIN_CSV, text_columns: Collection[str] = ()
) -> None:
    """Write a table: the whole table, or nothing. The suffix of `path` selects the format.

    An existing file is kept as `.bak`. In a Parquet table, string columns whose cells are all numbers are written as
    numbers, unless that would lose something, such as leading zeros or digits.

    style: the style of a CSV table.
    text_columns: string columns that stay strings in a Parquet table.

    Raises:
        RunError: the table can't be written.
    """
    with atomic_write(path, keep_backup=True) as temporary:
        if is_parquet(path):
            _with_number_columns(frame, text_columns).to_parquet(temporary, index=False)
        else:
            write_csv(_as_csv_cells(frame), temporary, style, is_gzip(path))


def _as_csv_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the text of its CSV cells in all columns."""
    import pyarrow as pa

    columns = {
        name: pd.Series(texts_of(pa.chunked_array([pa.array(frame[name])])), index=frame.index, dtype=STRING)
        for name in frame
    }
    return pd.DataFrame(columns, columns=frame.columns)


def _with_number_columns(frame: pd.DataFrame, text_columns: Collection[str]) -> pd.DataFrame:
    typed = frame.copy(deep=False)
    for name in frame:
        column = frame[name]
        if column.dtype != STRING or name in text_columns:
            continue
        cells = column[column != ""]
        if len(cells) and cells.str.fullmatch(_INTEGER).all():
            typed[name] = pd.to_numeric(column.where(column != "")).astype("Int64")
        elif len(cells) and cells.str.fullmatch(_NUMBER).all() and cells.map(_is_exact_as_float).all():
            typed[name] = pd.to_numeric(column.where(column != "")).astype("Float64")
    return typed


def _is_exact_as_float(cell: str) -> bool:
    if len(cell) <= sys.float_info.dig and "e" not in cell.lower():
        return True
    value = float(cell)
    return math.isfinite(value) and Decimal(repr(value)) == Decimal(cell)


def with_column(frame: pd.DataFrame, name: str, values: Sequence[Any], dtype: Any = STRING) -> pd.DataFrame:
    """A copy of the frame with `values` in the column `name`, which may be new."""
    changed = frame.copy(deep=False)
    changed[name] = pd.Series(values, index=frame.index, dtype=dtype)
    return changed


def as_text(column: pd.Series) -> pd.Series:
    """A column as strings; missing cells become empty strings."""
    import pyarrow as pa

    if column.dtype == STRING:
        return column.fillna("")
    return pd.Series(texts_of(pa.chunked_array([pa.array(column)])), index=column.index, dtype=STRING)


def as_numbers(column: pd.Series) -> pd.Series:
    """A column as float64; cells that are not numbers become NaN."""
    return pd.to_numeric(column, errors="coerce").astype("float64")
