"""Logs the progress of a run, one line at a time, for terminals and log files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ..workers.run_state import Snapshot
from .speed import Speed, seconds_left

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0


class ProgressLog:
    """Logs progress every INTERVAL_SECONDS from a thread. A context manager.

    total: rows to caption in this run.
    snapshot: returns the state of the run; its counts are (rows done, rows failed, ranks that caption).
    interval: seconds between two lines.
    note: what a line says in addition; '' for nothing.
    unit: what the rows are, in the plural.
    """

    def __init__(
        self,
        total: int,
        snapshot: Callable[[], Snapshot],
        interval: float = INTERVAL_SECONDS,
        note: Callable[[], str] = str,
        unit: str = "clips",
    ) -> None:
        self._total, self._unit = total, unit
        self._snapshot = snapshot
        self._interval = interval
        self._note = note
        self._speed = Speed()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> ProgressLog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            snapshot = self._snapshot()
            if snapshot.counts and self._total:
                note = self._note()
                logger.info("%s%s", self.line(time.monotonic(), snapshot), f"; {note}" if note else "")

    def line(self, now: float, snapshot: Snapshot) -> str:
        """One line: rows done, rows failed, speed over the last two minutes, time left, ranks whose progress is late.

        now: seconds of a monotonic clock.
        """
        done, failed, captioning = snapshot.counts
        if captioning:  # the time in which the models are loaded does not count
            self._speed.record(now, done)
        rate = self._speed.per_second()
        left = seconds_left(self._total - done, rate)
        failures = f", {failed} failed" if failed else ""
        late = "".join(f"; rank {rank}: no progress for {duration(seconds)}" for rank, seconds in snapshot.late)
        return (
            f"{done}/{self._total} {self._unit} ({done / max(1, self._total):.0%}){failures}, "
            f"{rate:.2f} {self._unit}/s, time left {'unknown' if left is None else duration(left)}{late}"
        )


def duration(seconds: float) -> str:
    """A duration as text: `45 s`, `12 min 30 s`, `3 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
