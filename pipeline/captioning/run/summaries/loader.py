"""Gives the videos whose captions are summarised, one after the other. Knows nothing about engines and services."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...workers.leases import RowTask
from ..model_rows import AskedRow, EndedRow, RowLoader


class VideoLoader(RowLoader):
    """Gives the videos of tasks at once: nothing is decoded."""

    wait_seconds = decode_seconds = 0.0

    def __init__(self, tasks: Iterable[RowTask], asked: Callable[[RowTask], AskedRow | EndedRow]) -> None:
        self._tasks, self._asked = iter(tasks), asked
        self.has_ended = False

    def next_row(self, wait: float) -> AskedRow | EndedRow | None:
        task = next(self._tasks, None)
        self.has_ended = task is None
        return None if task is None else self._asked(task)
