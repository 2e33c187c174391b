"""Reads the rows of a captioned table one at a time, with bounded memory. Knows nothing about formats of exports."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.csv_cells import read_csv_rows, read_header
from pipeline.captioning.meta.names import (
    END_COLUMN,
    RANGE_COLUMNS,
    START_COLUMN,
    check_is_file,
    column_list,
    is_parquet,
)  # fmt: skip
from pipeline.captioning.meta.parquet_cells import read_parquet_chunks, read_schema, texts_of
from pipeline.captioning.meta.ranges import not_a_time, range_fields, range_of_cells
from pipeline.captioning.meta.table import PATH_COLUMN, TEXT_COLUMN
from pipeline.captioning.process.errors import RunError, UsageError

_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    number: from 0, in file order.
    path: of the clip; '' where missing.
    captions: one for each chosen caption column; '' where the row has none.
    cells: the other wanted cells, as JSON values. Cells of CSV tables are strings, but times of ranges are numbers.
    range: the part of the file that the row is; None for the whole file.
    """

    number: int
    path: str
    captions: tuple[str, ...]
    cells: tuple[Any, ...]
    range: TimeRange | None = None

    @property
    def key(self) -> str:
        """Unique in the table: the number, with nine digits."""
        return f"{self.number:09}"


class CaptionedTable:
    """A table with one or several columns of captions.

    columns: the names of all columns, in order.
    captions: the chosen caption columns.
    without_caption: number of rows that the latest `captioned_rows` has left out so far.
    """

    def __init__(
        self, path: Path, captions: Sequence[str], usual: Sequence[str] = (), whole_files: bool = False
    ) -> None:
        """Read the header.

        captions: the caption columns that the user has chosen; if empty, those of `usual` that the table has, else
            `text`.
        whole_files: every row is a whole file; the columns `start` and `end` mean something else.

        Raises:
            UsageError: the table can't be read, has several columns of the same name, or lacks `path` or one of
                `captions`.
        """
        check_is_file(path, "table")
        self.path = path
        self.columns: list[str] = list(read_schema(path).names if is_parquet(path) else read_header(path))
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise UsageError(f"table {path} has several columns named '{repeated[0]}'; keep one")
        self._times = [] if whole_files else [name for name in RANGE_COLUMNS if name in self.columns]
        self.without_caption = 0
        self.check_columns([PATH_COLUMN])
        self.captions = tuple(captions or [name for name in usual if name in self.columns] or [TEXT_COLUMN])
        self._check_captions()

    def check_columns(self, names: Sequence[str], what: str = "") -> None:
        """Check that the table has these columns.

        what: their purpose, for the message.

        Raises:
            UsageError: a column is missing.
        """
        for name in names:
            if name not in self.columns:
                raise UsageError(
                    f"table {self.path} has no column '{name}'{what}; its columns: {column_list(self.columns)}"
                )

    def _check_captions(self) -> None:
        similar = [name for name in self.columns if name.startswith(f"{TEXT_COLUMN}_")]
        if TEXT_COLUMN in self.captions and TEXT_COLUMN not in self.columns and similar:
            raise UsageError(
                f"table {self.path} has no column '{TEXT_COLUMN}', but {column_list(similar)}; name each column of "
                "captions by --column"
            )
        self.check_columns(self.captions, " of captions (--column)")

    def rows(self, others: Sequence[str] = ()) -> Iterator[Row]:
        """All rows, in order.

        others: the columns of `Row.cells`.

        Raises:
            UsageError: the table can't be read; for a fault in a row, when this row is read.
        """
        rows = self._parquet_rows if is_parquet(self.path) else self._csv_rows
        if not self._times:
            return rows(others)
        return self._with_ranges(rows([*others, *self._times]), others)

    def _with_ranges(self, rows: Iterator[Row], others: Sequence[str]) -> Iterator[Row]:
        """The rows with their ranges. rows: with the times as last cells."""
        positions = [(i, name) for i, name in enumerate(others) if name in self._times]
        for row in rows:
            times = dict(zip(self._times, row.cells[len(others) :], strict=True))
            start, end = ("" if times.get(name) is None else str(times[name]) for name in RANGE_COLUMNS)
            try:
                part = range_of_cells(start, end)
            except ValueError as error:
                column, cell = (START_COLUMN, start) if error.args[0] == start else (END_COLUMN, end)
                raise not_a_time(f"table {self.path}", row.number, column, cell) from None
            cells, fields = list(row.cells[: len(others)]), range_fields(part)
            for i, name in positions:
                cells[i] = fields.get(name)
            yield replace(row, cells=tuple(cells), range=part)

    def captioned_rows(self, others: Sequence[str] = ()) -> Iterator[Row]:
        """The rows that have a caption in at least one of the chosen columns. Errors and arguments as for `rows`."""
        self.without_caption = 0
        for row in self.rows(others):
            if any(caption.strip() for caption in row.captions):
                yield row
            else:
                self.without_caption += 1

    def check_exported(self, count: int, failed: str = "") -> None:
        """Call this before an export of `count` rows replaces an earlier one.

        failed: the rows that failed, for the message: `FailedRows.summary`.

        Raises:
            RunError: the export would be empty.
        """
        if not count:
            columns = ", ".join(f"'{name}'" for name in self.captions)
            raise RunError(
                f"table {self.path}: nothing to export: {self.without_caption:,} rows have no caption in {columns}"
                f"{failed and f'; {failed}'}"
            )

    def _csv_rows(self, others: Sequence[str]) -> Iterator[Row]:
        path = self.columns.index(PATH_COLUMN)
        captions = [self.columns.index(name) for name in self.captions]
        chosen = [self.columns.index(name) for name in others]
        rows = read_csv_rows(self.path)
        next(rows)  # the header
        for number, cells in enumerate(rows):
            yield Row(number, cells[path], tuple(cells[i] for i in captions), tuple(cells[i] for i in chosen))

    def _parquet_rows(self, others: Sequence[str]) -> Iterator[Row]:
        wanted = list(dict.fromkeys([PATH_COLUMN, *self.captions, *others]))
        number = 0
        for batch in read_parquet_chunks(self.path, wanted, _CHUNK_ROWS):
            texts = {name: _texts(batch.column(name)) for name in (PATH_COLUMN, *self.captions)}
            captions = zip(*(texts[name] for name in self.captions), strict=True)
            values = [_json_values(batch.column(name)) for name in others]
            cells = zip(*values, strict=True) if values else iter([()] * batch.num_rows)
            for path, row_captions, row_cells in zip(texts[PATH_COLUMN], captions, cells, strict=True):
                yield Row(number, path, row_captions, row_cells)
                number += 1


def _texts(column: Any) -> list[str]:
    import pyarrow as pa

    texts: list[str] = texts_of(pa.chunked_array([column])).to_pylist()
    return texts


def _json_values(column: Any) -> list[Any]:
    """The cells of an Arrow column as JSON values.

    Numbers, truth values, lists and structs keep their types, null and NaN are None, all others become text.
    """
    from pyarrow import types

    convert: Any = None
    if types.is_boolean(column.type):
        convert = "True".__eq__
    elif types.is_integer(column.type):
        convert = int
    elif types.is_floating(column.type):
        convert = _finite
    elif types.is_nested(column.type):
        convert = json.loads
    texts = _texts(column)
    if convert is None and not column.null_count:
        return texts
    missing = column.is_null().to_pylist()
    return [None if gone else convert(text) if convert else text for text, gone in zip(texts, missing, strict=True)]


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
