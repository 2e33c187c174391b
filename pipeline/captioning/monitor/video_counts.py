"""How many videos of a table of segments are complete: during a run from its journals, after its end from its outcomes.

A video is complete when all rows with its path have a result. Of a table, only the number of each row's video is in
memory: 4 bytes a row, besides the paths of the videos.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..meta.csv_cells import read_csv_rows
from ..meta.names import PATH_COLUMN, check_is_file, is_parquet
from ..meta.outcomes import read_outcomes
from ..meta.parquet_cells import read_parquet_chunks, texts_of
from ..process.errors import UsageError
from .run_progress import RunProgress

_CHUNK_ROWS = 65536


class VideoCounts:
    """The videos of one table. Reads the table when a run with segments is found."""

    def __init__(self, table: Path) -> None:
        self._table = table
        self._has_read = False
        self._videos = np.zeros(0, np.uint32)  # for each row, the number of its video
        self._rows = np.zeros(0, np.int64)  # for each video, the number of its rows

    def figures(self, progress: RunProgress) -> dict[str, int] | None:
        """`total`, `complete`, and `other_rows`: rows of the table that the run does not caption.

        None if the run has no segments, or the table is not that of the run or can't be read.
        """
        if not progress.has_ranges:
            return None
        if not self._has_read:
            self._read()
        done = np.zeros(len(self._videos), bool)
        for rows in progress.finished_rows:
            numbers = np.array(rows, np.int64)
            if len(numbers) and numbers.max() >= len(done):
                return None
            done[numbers] = True
        if not len(done):
            return None
        complete = np.bincount(self._videos[done], minlength=len(self._rows)) == self._rows
        other_rows = max(0, len(done) - progress.rows)
        return {"total": len(self._rows), "complete": int(complete.sum()), "other_rows": other_rows}

    def _read(self) -> None:
        self._has_read = True
        numbers: dict[str, int] = {}
        try:
            videos = array("I", (numbers.setdefault(path, len(numbers)) for path in _paths(self._table)))
        except UsageError:
            return  # the run has its own copy of the table, or the table has changed
        self._videos = np.array(videos, np.uint32)
        self._rows = np.bincount(self._videos, minlength=len(numbers))


def finished_counts(outcomes: Path, done: int) -> dict[str, int] | None:
    """The figures of a run that has ended, as `VideoCounts.figures`; None if its outcomes can't be read.

    Rows that keep an earlier caption have a result here: in contrast to journals, outcomes have all rows of the table.

    done: number of rows that the run captioned, or that failed.
    """
    complete: dict[str, bool] = {}
    rows = 0
    try:
        for record in read_outcomes(outcomes):
            complete[record["path"]] = complete.get(record["path"], True) and record["outcome"] != "excluded"
            rows = record["row"] + 1
    except (OSError, ValueError):
        return None
    return {"total": len(complete), "complete": sum(complete.values()), "other_rows": max(0, rows - done)}


def _paths(table: Path) -> Iterator[str]:
    """The path of each row.

    Raises:
        UsageError: the table can't be read.
    """
    check_is_file(table, "meta file")
    if is_parquet(table):
        import pyarrow as pa

        for batch in read_parquet_chunks(table, [PATH_COLUMN], _CHUNK_ROWS):
            yield from texts_of(pa.chunked_array([batch.column(PATH_COLUMN)])).to_pylist()
        return
    rows = read_csv_rows(table)
    header = next(rows)
    if PATH_COLUMN not in header:
        raise UsageError(f"meta file {table} has no '{PATH_COLUMN}' column")
    position = header.index(PATH_COLUMN)
    for row in rows:
        yield row[position]
