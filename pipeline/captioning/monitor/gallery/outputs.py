"""Reads the files next to a captioned table that the gallery needs: failures and report.

Knows nothing about captions and their marks.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...clips.time_range import TimeRange
from ...meta.csv_cells import read_csv_cells
from ...meta.names import RANGE_COLUMNS, TEXT_COLUMN, report_path
from ...meta.ranges import range_of_cells, row_keys
from ...process.errors import UsageError

logger = logging.getLogger(__name__)

_FAILURE_COLUMNS = ("row", "path", "stage", "message")
_REPORT_KEYS = {
    "captioned_in_this_run", "seconds", "clips_per_second", "tokens_per_second", "truncated", "workers", "backends",
    "fingerprint", "options", "versions",
}  # fmt: skip
"""Keys of a report that the page needs."""


def read_failures(
    path: Path, paths: Sequence[str], ranges: Sequence[TimeRange | None] = ()
) -> dict[tuple[str, int], tuple[str, str]]:
    """Stage and message of each failure, by column and row. Skips rows whose path or range in the table is now another.

    paths, ranges: of all rows of the table; `ranges` is empty if no row has one.

    Raises:
        UsageError: the file lacks a column.
    """
    if not path.is_file():
        return {}
    cells = read_csv_cells(path)
    positions = {name: position for position, name in enumerate(cells.iloc[0].tolist())}
    missing = set(_FAILURE_COLUMNS) - positions.keys()
    if missing:
        raise UsageError(f"{path} has no column {', '.join(sorted(missing))}; is this the failures file of a run?")
    lines = len(cells) - 1
    columns = [cells[positions[name]].tolist()[1:] for name in _FAILURE_COLUMNS]
    # Files of earlier versions have no such column: the captions of a run were in `text`.
    names = cells[positions["column"]].tolist()[1:] if "column" in positions else [TEXT_COLUMN] * lines
    keys = row_keys(paths, ranges)
    failed_keys = row_keys(columns[1], _parts(cells, positions) if ranges else [])
    failures = {
        (name, int(row)): (stage, message)
        for name, row, key, stage, message in zip(names, columns[0], failed_keys, *columns[2:], strict=True)
        if row.isdigit() and int(row) < len(paths) and keys[int(row)] == key
    }
    if len(failures) < lines:
        logger.warning(
            "%d rows of %s are ignored: the table has no such row, or another path or range in it",
            lines - len(failures),
            path,
        )
    return failures


def _parts(cells: pd.DataFrame, positions: Mapping[str, int]) -> list[TimeRange | None]:
    """The range of each failed row; None where it has none, or one that can't be read."""
    blank = [""] * (len(cells) - 1)
    starts, ends = (cells[positions[name]].tolist()[1:] if name in positions else blank for name in RANGE_COLUMNS)

    def part(start: str, end: str) -> TimeRange | None:
        with contextlib.suppress(ValueError):
            return range_of_cells(start, end)
        return None

    return [part(start, end) for start, end in zip(starts, ends, strict=True)]


def read_report(output: Path) -> Mapping[str, Any]:
    """The report of the run that wrote `output`; empty if there is no usable one."""
    path = report_path(output)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s can't be read: %s", path, error)
        return {}
    if not isinstance(report, dict) or not report.keys() >= _REPORT_KEYS:
        logger.warning("%s is ignored: it is not the report of a run, or comes from another version", path)
        return {}
    return report
