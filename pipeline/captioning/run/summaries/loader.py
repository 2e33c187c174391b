"""Gives the videos whose captions are summarised, one after the other. Knows nothing about engines and services."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from ...workers.leases import RowTask
from ..model_rows import AskedRow, EndedRow, RowLoader


class VideoLoader(RowLoader):
    """Gives the videos of tasks at once: nothing is decoded.

    ahead: returns how many videos may be given between two steps of the engine. With several ranks these are few, so
        that the first rank that asks does not take all.
    """

    wait_seconds = decode_seconds = 0.0

    def __init__(
        self,
        tasks: Iterable[RowTask],
        asked: Callable[[RowTask], AskedRow | EndedRow],
        ahead: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        self._tasks, self._asked, self._ahead = iter(tasks), asked, ahead
        self._given = 0  # since the last step
        self.has_ended = False

    def next_row(self, wait: float) -> AskedRow | EndedRow | None:
        if wait == 0 and self._given >= max(1, self._ahead()):
            self._given = 0
            return None
        self._given += 1
        task = next(self._tasks, None)
        self.has_ended = task is None
        return None if task is None else self._asked(task)
