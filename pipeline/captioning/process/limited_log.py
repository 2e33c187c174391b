"""Limits the warnings about single rows: at most 20 each minute, then only the number of the others.

Otherwise a disk that fails for every row would fill the log. Knows nothing about rows or clips.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

MAX_WARNINGS = 20
SECONDS = 60.0


class LimitedLog:
    """Logs at most MAX_WARNINGS warnings in SECONDS and counts the others. Thread-safe.

    logger: receives the warnings.
    where: what contains all these warnings, for the message about those that are not shown.
    clock: returns seconds since any fixed time.
    """

    def __init__(self, logger: logging.Logger, where: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._where = where
        self._clock = clock
        self._lock = threading.Lock()
        self._begin = clock()
        self._shown = 0
        self._hidden = 0

    def warning(self, message: str, *arguments: Any) -> None:
        """As `logging.Logger.warning`."""
        with self._lock:
            if self._clock() - self._begin >= SECONDS:
                self._log_hidden_count()
                self._begin, self._shown = self._clock(), 0
            if self._shown < MAX_WARNINGS:
                self._shown += 1
                self._logger.warning(message, *arguments)
            else:
                self._hidden += 1

    def close(self) -> None:
        """Log the number of the last warnings that were not shown."""
        with self._lock:
            self._log_hidden_count()

    def _log_hidden_count(self) -> None:
        if self._hidden:
            self._logger.warning("… and %d more within %d s; all are in %s", self._hidden, SECONDS, self._where)
        self._hidden = 0
