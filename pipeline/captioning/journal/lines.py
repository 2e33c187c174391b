"""A journal's file as lines of JSON: read records, add records, remove an incomplete last line.

Knows nothing about the meaning of the records.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..process.errors import RunError

ROW, SESSION, FORGET_FAILURES = b'{"row":', b'{"session":', b'{"forget_failures":'
"""The first bytes of such lines, so that not all of a million lines need to be parsed."""
_FOR_PROGRESS = ('{"lease":', '{"loaded":', '{"usage":')
"""The first characters of lines that only `progress` reads: no plan and no result depends on them."""


def as_line(record: dict) -> str:
    """A record as a line of a journal."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def read_records(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield a journal's records with their line numbers, from 1. Leaves out records that only `progress` reads.

    An incomplete last line is ignored.

    Raises:
        RunError: the journal can't be read, or a line is damaged.
    """
    with reading(path), path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return  # incomplete: the worker died while writing it
            if line.startswith(_FOR_PROGRESS):
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise damaged(path, number, error) from error
            if not isinstance(record, dict):
                raise damaged(path, number, "not a record")
            yield number, record


def damaged(path: Path, number: int, reason: object) -> RunError:
    """The error for a damaged line. number: of the line, from 1."""
    return RunError(f"journal {path}, line {number} is damaged ({reason}); remove that line, or give --restart")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError while a journal is read into a RunError with the path and advice."""
    try:
        yield
    except OSError as error:
        raise RunError(f"can't read the journal {path}: {error}; make it readable, or move it away") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while a journal is written into a RunError with the path and advice."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"can't write the journal {path}: {error}; its earlier records are safe: fix the cause"
        ) from error


def add_records(path: Path, *records: dict) -> None:
    """Add records to a journal that no worker is writing to. When this returns, they are on disk."""
    with writing(path):
        drop_incomplete_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(map(as_line, records))
            file.flush()
            os.fsync(file.fileno())


def drop_incomplete_line(path: Path) -> int:
    """Remove a last line without a line end from a file; returns the remaining size in bytes."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            begin = max(0, end - 65536)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            file.truncate(end)
        return end
