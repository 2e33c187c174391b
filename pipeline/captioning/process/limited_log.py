"""Warnings about single rows, at most so many a minute, then their number: a broken disk must not fill the log.

Knows no rows and no clips.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

MOST_WARNINGS = 20
SECONDS = 60.0


class LimitedLog:
    """Logs MOST_WARNINGS warnings in SECONDS; those beyond are counted. May be used by several threads.

    logger: what is logged to.
    where: where those that are not shown can be read, for the message.
    clock: seconds, from any start.
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
                self._tell_hidden()
                self._begin, self._shown = self._clock(), 0
            if self._shown < MOST_WARNINGS:
                self._shown += 1
                self._logger.warning(message, *arguments)
            else:
                self._hidden += 1

    def close(self) -> None:
        """Tell of the last warnings that were not shown."""
        with self._lock:
            self._tell_hidden()

    def _tell_hidden(self) -> None:
        if self._hidden:
            self._logger.warning("… and %d more within %d s; all are in %s", self._hidden, SECONDS, self._where)
        self._hidden = 0
