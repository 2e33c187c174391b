"""A journal's file as lines of JSON: reading, adding, cutting off a torn end. Knows no record's meaning."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..process.errors import RunError

ROW, SESSION, FORGET_FAILURES = b'{"row":', b'{"session":', b'{"forget_failures":'
"""How such lines begin; a million of them need not all be parsed."""
_FOR_PROGRESS = ('{"lease":', '{"loaded":')
"""Lines that no plan and no result depends on."""


def as_line(record: dict) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def read_records(path: Path) -> Iterator[tuple[int, dict]]:
    """Stream a journal's records with their line numbers, those for `progress` alone left out.

    Raises:
        RunError: the journal can't be read, or a line is damaged. An unfinished last line is ignored.
    """
    with reading(path), path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return  # torn: the worker died while writing it
            if line.startswith(_FOR_PROGRESS):
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise damaged(path, number, error) from error
            if not isinstance(record, dict):
                raise damaged(path, number, "no record")
            yield number, record


def damaged(path: Path, number: int, why: object) -> RunError:
    return RunError(f"journal {path}, line {number} is damaged ({why}); remove that line, or give --restart")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Explain what keeps a journal from being read."""
    try:
        yield
    except OSError as error:
        raise RunError(f"can't read the journal {path}: {error}; make it readable, or move it away") from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Explain what keeps a journal from being written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"can't write the journal {path}: {error}; what it holds so far is safe: mend that") from error


def add_records(path: Path, *records: dict) -> None:
    """Add records to a journal that no worker writes to; they are on disk when this returns."""
    with writing(path):
        drop_torn_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(map(as_line, records))
            file.flush()
            os.fsync(file.fileno())


def drop_torn_line(path: Path) -> int:
    """Cut a last line without an end off; returns the size that is left, in bytes."""
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
