"""Tells people how a run is getting on: lines that read well in a terminal and in a log file."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .speed import Speed

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0


class ProgressLog:
    """Logs progress every INTERVAL_SECONDS from a thread. A context manager.

    total: rows to caption in this run.
    counts: gives (done, failed) so far, or an empty list before the first.
    """

    def __init__(self, total: int, counts: Callable[[], list[int]], interval: float = INTERVAL_SECONDS) -> None:
        self._total = total
        self._counts = counts
        self._interval = interval
        self._speed = Speed()
        self._speed.note(time.monotonic(), 0)
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
            counts = self._counts()
            if counts and self._total:
                logger.info("%s", self.line(time.monotonic(), *counts))

    def line(self, now: float, done: int, failed: int) -> str:
        """One line: done, failed, speed over the last two minutes, time left."""
        self._speed.note(now, done)
        rate = self._speed.per_second()
        left = duration((self._total - done) / rate) if rate > 0 else "unknown"
        failures = f", {failed} failed" if failed else ""
        share = done / max(1, self._total)
        return f"{done}/{self._total} clips ({share:.0%}){failures}, {rate:.2f} clips/s, time left {left}"


def duration(seconds: float) -> str:
    """A length of time for people: `45 s`, `12 min 30 s`, `3 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
