"""Write and read the outcomes file: one JSON object for each row. docs/outputs.md describes its fields.

Knows nothing about models and frameworks.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import atomic_write
from .results import Failure, RowResult, as_json


def write_outcomes(
    path: Path,
    paths: Sequence[str],
    kept: Container[int],
    excluded: Container[int],
    captions: Mapping[int, RowResult],
    failures: Mapping[int, Failure],
) -> None:
    """Write the outcome of every row, in the order of the table, one line at a time.

    paths: of all rows.
    kept: rows that keep an earlier caption. excluded: rows beyond `--limit`.
    captions, failures: results of all other rows.

    Raises:
        RunError: the file can't be written.
    """
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        for row, clip_path in enumerate(paths):
            fields = _outcome_json(row, kept, excluded, captions, failures)
            file.write(f'{{"row": {row}, "path": {as_json(clip_path)}, {fields[1:]}\n')


def _outcome_json(
    row: int,
    kept: Container[int],
    excluded: Container[int],
    captions: Mapping[int, RowResult],
    failures: Mapping[int, Failure],
) -> str:
    """The outcome of a row as a JSON object, without row and path."""
    if row in kept:
        return as_json({"outcome": "kept"})
    if row in captions:
        result = captions[row]
        return _captioned_json(result.tokens, result.truncated, result.looping, result.partial)
    if row in failures:
        failure = failures[row]
        return as_json({"outcome": "failed", "stage": failure.stage, "message": "; ".join(failure.messages)})
    assert row in excluded, f"row {row} has no outcome"
    return as_json({"outcome": "excluded"})


@functools.cache  # most of a million rows have one of a few outcomes
def _captioned_json(tokens: int, truncated: bool, looping: bool, partial: bool) -> str:
    return as_json(
        {"outcome": "captioned", "tokens": tokens, "truncated": truncated, "looping": looping, "partial": partial}
    )


def read_outcomes(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of an outcomes file, in order.

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
