"""Reads the captions of a table as documents, one at a time. Knows nothing about the database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.csv_cells import NUL, NUL_REPLACEMENT, read_header
from pipeline.captioning.meta.marks import outcome_columns
from pipeline.captioning.meta.names import TEXT_COLUMN, check_is_file, is_parquet, outcomes_path
from pipeline.captioning.meta.outcomes import read_outcomes
from pipeline.captioning.meta.parquet_cells import read_schema
from pipeline.captioning.meta.ranges import range_of_fields
from pipeline.captioning.monitor.gallery.outputs import read_report
from pipeline.datasets.exports.rows import CaptionedTable

_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Document:
    """The caption of a row in one column.

    row: of the table, from 0. path: as in the table. range: the part of the file; None for the whole file.
    column: of the caption.
    outcome: `captioned`, `truncated` (captioned, but cut off by the limit of tokens) or `kept` (from an earlier run);
        empty if the table has no outcomes file, or it does not fit the table.
    text: never blank.
    """

    row: int
    path: str
    range: TimeRange | None
    column: str
    outcome: str
    text: str


def captioned_table(path: Path, columns: Sequence[str], whole_files: bool) -> CaptionedTable:
    """Read the header of a table.

    columns: of captions; if empty, those that the run wrote; if that is unknown, `text` and all `text_NAME`.
    whole_files: as for `CaptionedTable`; also true if the report of the run says so.

    Raises:
        UsageError: as `CaptionedTable`.
    """
    check_is_file(path, "table")
    usual = outcome_columns(outcomes_path(path)) or _text_columns(path)
    report = read_report(path)
    return CaptionedTable(path, columns, usual, whole_files or bool(report and not report.get("ranges")))


def _text_columns(path: Path) -> list[str]:
    names = list(read_schema(path).names if is_parquet(path) else read_header(path))
    return [name for name in names if name == TEXT_COLUMN or name.startswith(f"{TEXT_COLUMN}_")]


def documents(table: CaptionedTable) -> Iterator[Document]:
    """The captions of all rows, in order; rows without caption are left out and counted (`table.without_caption`).

    Raises:
        UsageError: the table can't be read; for a fault in a row, when this row is read.
    """
    outcomes = _Outcomes(outcomes_path(table.path))
    for row in table.captioned_rows():
        known = outcomes.of(row.number, row.path, row.range)
        for column, caption in zip(table.captions, row.captions, strict=True):
            if text := caption.strip().replace(NUL, NUL_REPLACEMENT):
                text = _SURROGATE.sub("\ufffd", text)
                yield Document(row.number, row.path, row.range, column, known.get(column, ""), text)


class _Outcomes:
    """The outcomes of rows that are asked for in ascending order. Only those of one row are in memory."""

    def __init__(self, path: Path) -> None:
        self._records = self._read(path)
        self._next = next(self._records, None)

    @staticmethod
    def _read(path: Path) -> Iterator[tuple[dict[str, Any], TimeRange | None]]:
        """The records and their ranges, up to the first one that can't be read."""
        try:
            for record in read_outcomes(path):
                if not isinstance(record["row"], int):
                    return
                yield record, range_of_fields(record)
        except (OSError, ValueError):  # the captions are what counts
            return

    def of(self, row: int, path: str, part: TimeRange | None) -> dict[str, str]:
        """The outcome of each column of a row; none if this row of the file has another path or another range."""
        found = {}
        while self._next is not None and self._next[0]["row"] <= row:
            record, range_of_record = self._next
            if (record["row"], record["path"], range_of_record) == (row, path, part):
                outcome = "truncated" if record.get("truncated") is True else str(record["outcome"])
                found[str(record.get("column", TEXT_COLUMN))] = outcome
            self._next = next(self._records, None)
        return found
