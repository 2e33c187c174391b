"""Reads the lines that a worker adds to its journal, and counts what they say. Knows nothing about other ranks."""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..meta.names import TEXT_COLUMN
from ..meta.results import RowResult
from .run_progress import FailureExample, RankProgress
from .service_usage import added


class JournalTail:
    """Reads the new lines of one journal.

    on_result: called with each result, also of earlier sessions; None for nothing.
    run: the run of the newest session.
    progress: of the newest session.
    failures, examples: failures of all sessions by stage, and the first one of each stage.
    finished_before: rows finished in earlier sessions.
    failed_before: rows that failed in earlier sessions.
    captioned_rows, failed_rows: the numbers of the rows finished in all sessions, those with a failure apart; failures
        that are to be forgotten are not among them. A row may be there several times.
    has_ranges: rows of the run's table are parts of their files.
    usage: tokens, cost and answers of a service, added over all sessions.
    """

    def __init__(self, path: Path, on_result: Callable[[RowResult], None] | None = None) -> None:
        self.path, self._on_result = path, on_result
        self._file_id: tuple[int, int] | None = None
        self._reset()

    def _reset(self) -> None:
        self._position = 0
        self._forgets_failures = False
        self.run = ""
        self.progress = RankProgress(int(self.path.stem.removeprefix("rank-")))
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, FailureExample] = {}
        self.finished_before = self.failed_before = 0
        self.captioned_rows, self.failed_rows = array("q"), array("q")
        self.has_ranges = False
        self._usage: dict[str, float] = {}  # of the newest session
        self._usage_before: dict[str, float] = {}  # of the earlier sessions

    @property
    def usage(self) -> dict[str, float]:
        return added(self._usage_before, self._usage)

    def read_new_lines(self) -> None:
        """Read the lines that were added since the last call.

        Raises:
            OSError: the journal does not exist any more; the end of a run removes it.
        """
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) != self._file_id or status.st_size < self._position:
                self._reset()
                self._file_id = (status.st_dev, status.st_ino)
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # the worker is still writing this line
                self._position += len(line)
                self._read_line(line)
            self.progress.written_at = status.st_mtime
            self.progress.lock_is_held = _is_locked(status)

    def _read_line(self, line: bytes) -> None:
        # The most frequent lines besides results; they need not be parsed.
        if line.startswith(b'{"start":'):
            self.progress.is_waiting = False
            return
        if line.startswith(b'{"lease":'):
            self.progress.leased += line.count(b",") + 1
            return
        try:
            record = json.loads(line)
        except ValueError:  # a damaged line: the next run reports it, and how to fix it
            return
        if "row" in record:
            self._add_result(RowResult.from_record(record))
        elif "run" in record:
            self._begin_session(record)
        elif "loaded" in record:
            self.progress.started_at, self.progress.has_loaded = _seconds(record["loaded"]), True
        elif "fingerprint" in record:
            self.has_ranges = "ranges" in record["fingerprint"]  # an entry of the table that only segments make
        elif "usage" in record:
            self._usage = record["usage"]
        elif "forget_failures" in record:
            self._forgets_failures = True
        self.progress.released = self.progress.released or "released" in record
        self.progress.is_waiting = "waiting" in record

    def _add_result(self, result: RowResult) -> None:
        if self._on_result is not None:
            self._on_result(result)
        self.progress.done += 1
        self.progress.failed += bool(result.failures)
        (self.failed_rows if result.failures else self.captioned_rows).append(result.row)
        for failure, columns in result.failures.items():
            self.failures[failure.stage] += len(columns)
            column = "" if result.columns == (TEXT_COLUMN,) else columns[0]
            example = FailureExample(result.row, column, "; ".join(failure.messages))
            self.examples.setdefault(failure.stage, example)

    def _begin_session(self, record: Mapping[str, Any]) -> None:
        self.end_session()
        self.run = record["run"]
        started, host = record["session"].split()[:2]
        self.progress = RankProgress(
            self.progress.rank,
            record["rows"],
            record.get("ranks", 1),
            started_at=_seconds(started),
            host=host,
            took_lock=record["locked"],
        )

    def end_session(self) -> None:
        """Add the session to the earlier ones. If its failures are to be forgotten, subtract all failures so far:
        the next run captions these rows again."""
        self.finished_before += self.progress.done
        self.failed_before += self.progress.failed
        self.progress = RankProgress(self.progress.rank)
        self._usage_before, self._usage = self.usage, {}
        if self._forgets_failures:
            self.finished_before -= self.failed_before
            self.failed_before = 0
            self.failures, self.examples = Counter(), {}
            self.failed_rows = array("q")
            self._forgets_failures = False


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()


def _is_locked(status: os.stat_result) -> bool | None:
    """Whether a process on this host holds a lock on the file; None if the system has no `/proc/locks`.

    Does not try the lock itself: a worker that starts at that moment could then fail to lock its journal.
    """
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            return any(f":{status.st_ino} " in line for line in locks if " FLOCK " in line)
    except OSError:
        return None
