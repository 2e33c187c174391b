"""Write and read the outcomes file: one JSON object for each row and column. docs/outputs.md describes its fields.

Knows nothing about models and frameworks.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..clips.time_range import TimeRange
from .files import atomic_write
from .ranges import range_fields
from .results import ColumnResults, as_json

_NONE: Mapping[int, Mapping[str, float]] = {}


def write_outcomes(
    path: Path,
    paths: Sequence[str],
    results: Mapping[str, ColumnResults],
    kept: Mapping[str, Container[int]],
    excluded: Container[int],
    partial: Container[int] = (),
    images: Container[int] = (),
    ranges: Sequence[TimeRange | None] = (),
    measured: Mapping[int, Mapping[str, float]] = _NONE,
) -> None:
    """Write the outcome of every row and column, in the order of the table and of `results`, one line at a time.

    paths: of all rows.
    results: for each column, the results of all rows that are neither kept nor excluded, and possibly of excluded rows.
    kept: for each column, rows that keep an earlier caption. excluded: rows beyond `--limit`.
    partial, images: captioned rows whose clip is a partial video, or a still image.
    ranges: of all rows; empty if no row has one.
    measured: `RowResult.measured` of captioned and failed rows; empty if the run measured nothing.

    Raises:
        RunError: the file can't be written.
    """
    columns = [(as_json(column), kept[column], results[column]) for column in results]
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        for row, clip_path in enumerate(paths):
            identity = {"row": row, "path": clip_path, **range_fields(ranges[row] if ranges else None)}
            begin = f'{as_json(identity)[:-1]}, "column": '
            for column, is_kept, of_column in columns:
                fields = _outcome_json(row, is_kept, excluded, of_column, partial, images)
                if row in measured and (row in of_column.captions or row in of_column.failures):
                    fields = f"{fields[:-1]}, {as_json(measured[row])[1:]}"
                file.write(f"{begin}{column}, {fields[1:]}\n")


def _outcome_json(
    row: int,
    kept: Container[int],
    excluded: Container[int],
    results: ColumnResults,
    partial: Container[int],
    images: Container[int],
) -> str:
    """The outcome of a row in a column as a JSON object, without row, path and column."""
    if row in kept:
        return as_json({"outcome": "kept"})
    caption = results.captions.get(row)
    if caption is not None:
        return _captioned_json(caption.tokens, caption.truncated, caption.looping, row in partial, row in images)
    failure = results.failures.get(row)
    if failure is not None:
        return as_json({"outcome": "failed", "stage": failure.stage, "message": "; ".join(failure.messages)})
    assert row in excluded, f"row {row} has no outcome"
    return as_json({"outcome": "excluded"})


@functools.cache  # most of a million rows have one of a few outcomes
def _captioned_json(tokens: int, truncated: bool, looping: bool, partial: bool, is_image: bool) -> str:
    record = {"outcome": "captioned", "tokens": tokens, "truncated": truncated, "looping": looping, "partial": partial}
    return as_json(record | {"media": "image" if is_image else "video"})


def read_outcomes(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of an outcomes file, in order. In files of earlier versions they have no `column`: it was `text`.

    Raises:
        OSError: the file can't be read.
        ValueError: a line is not a JSON object with row, path and outcome.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            record = json.loads(line)
            if not isinstance(record, dict) or not record.keys() >= {"row", "path", "outcome"}:
                raise ValueError(f"line {number} has no row, path and outcome")
            yield record
