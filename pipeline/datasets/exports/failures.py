"""Rows that can't be exported: each costs itself, never the export. They are listed in a CSV file."""

from __future__ import annotations

import csv
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.captioning.meta.files import atomic_write
from pipeline.captioning.process.errors import RunError

from .rows import Row

_MAX_MESSAGES = 10


class FailedRows:
    """A context manager that writes the file of failed rows. Without failures, an earlier file is removed.

    The same holds if the export ends with a RunError, for example because all rows failed. If it is interrupted or
    finds a fault of the table, an earlier file is unchanged.

    count: number of failed rows so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._open = ExitStack()
        self._writer: Any = None

    def add(self, row: Row, message: str) -> None:
        """Note that a row can't be exported. The first messages are also printed to stderr.

        Raises:
            RunError: the file can't be written.
        """
        if self._writer is None:
            temporary = self._open.enter_context(atomic_write(self.path))
            file = self._open.enter_context(temporary.open("w", encoding="utf-8", newline=""))
            self._writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
            self._writer.writerow(["row", "path", "message"])
        self._writer.writerow([row.number, row.path, message])
        self.count += 1
        if self.count <= _MAX_MESSAGES:
            print(f"row {row.number} ({row.path!r}): {message}", file=sys.stderr)

    @property
    def summary(self) -> str:
        """How many rows failed, and where they are listed; '' for none."""
        return f"{self.count:,} rows failed, see {self.path}" if self.count else ""

    def __enter__(self) -> FailedRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RunError):
            with suppress(RunError, OSError):  # `error` says more: the disk may be full
                self._finish()
        elif error is not None:
            self._open.__exit__(kind, error, trace)
        else:
            self._finish()

    def _finish(self) -> None:
        self._open.close()
        if self._writer is None:
            self.path.unlink(missing_ok=True)
