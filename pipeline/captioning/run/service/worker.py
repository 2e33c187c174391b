"""The rows of a run through a service whose rows are clips: loaded in processes, asked, finished.

Rows whose answers are all in the store are finished without loading their clips. The loop itself is in `loop`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from ...captioners.api.answer import AnsweredClip
from ...captioners.api.asker import Asker, Attempt, StoredResult
from ...clips.clip import Clip, ClipTask, LoadFailure
from ...clips.loader import ClipLoader
from ...clips.time_range import TimeRange
from ...meta.results import ColumnResult, RowResult
from ...workers.leases import RowTask
from .loop import POLL_SECONDS, LoopParts, ServiceLoop
from .rows import ServiceRows

_KEY_THREADS = 8
"""Files are read by this many threads for the keys of their rows: on a network disk, a read may take milliseconds."""
_BYTES_IN_FLIGHT = 256 * 2**20
"""No clip is taken while the frames or files of those in flight have more bytes: with `--send video`, a file may have
100 MB, and all that are sent at the same time share the uplink and must arrive within `--timeout`."""
_MAX_STORED_AHEAD = 1000
"""Rows that were answered before and wait for the journal."""

_Steps: TypeAlias = dict[int, "Attempt | StoredResult"]
"""What the store says about the questions of a row, by their numbers."""
MakeLoader = Callable[[Iterable[ClipTask]], ClipLoader]


@dataclass(frozen=True)
class _StoredRow:
    """A row whose questions are all answered in the store. used: the results that were found there."""

    result: RowResult
    path: str
    part: TimeRange | None
    used: Sequence[StoredResult]


class ServiceWorker(ServiceLoop["Clip | LoadFailure"]):
    """Captions the rows of a run through a service.

    parts: `wait_seconds` is the time in which a clip is loaded at the latest.
    make_loader: makes the loader of clips.
    questions: number of questions of the whole run, for the estimate of its cost.
    """

    def __init__(
        self, rows: ServiceRows, asker: Asker, parts: LoopParts, make_loader: MakeLoader, questions: int
    ) -> None:
        super().__init__(parts)
        self._rows, self._asker, self._make_loader, self._questions = rows, asker, make_loader, questions
        self.wait_seconds = self.decode_seconds = 0.0
        self._tasks: dict[int, tuple[RowTask, dict[int, str], _Steps]] = {}  # rows whose clips are being loaded
        self._stored: queue.Queue[_StoredRow] = queue.Queue(_MAX_STORED_AHEAD)
        self._closing = threading.Event()
        self._bytes_in_flight = 0
        self._not_asked = 0  # questions of rows that are finished, but were never asked

    async def run(self, tasks: Iterable[RowTask]) -> None:
        """Caption rows until none is left, or until the run ends early. Requests in flight are always awaited.

        Raises:
            ServiceStop, RunError: see `ServiceLoop.loop`.
        """
        with self._make_loader(self._rows_to_load(tasks)) as loader:
            try:
                await self.loop(loader.next_clip, lambda: loader.has_ended)
            finally:
                self.wait_seconds, self.decode_seconds = loader.wait_seconds, loader.decode_seconds

    @property
    def has_room(self) -> bool:
        return super().has_room and self._bytes_in_flight < _BYTES_IN_FLIGHT

    def close(self) -> None:
        self._closing.set()

    def remaining_questions(self) -> int:
        return self._questions - self.parts.usage.outcomes.total() - self._not_asked

    def _rows_to_load(self, tasks: Iterable[RowTask]) -> Iterator[ClipTask]:
        """The rows whose clips have to be loaded; the others go to `_stored`. Runs in the threads of the loader."""
        for task, keys in self._with_keys(tasks):
            if self._closing.is_set():
                return
            steps = {number: self._asker.next(key) for number, key in keys.items()}
            stored = self._stored_row(task, steps) if keys else None
            if stored is None:
                self._tasks[task.row] = task, keys, steps
                yield task.clip
                continue
            while not self._closing.is_set():
                try:
                    self._stored.put(stored, timeout=POLL_SECONDS)
                    break
                except queue.Full:
                    continue

    def _with_keys(self, tasks: Iterable[RowTask]) -> Iterator[tuple[RowTask, dict[int, str]]]:
        """The tasks with the keys of their questions, in order. The files are read ahead by several threads."""
        waiting: deque[tuple[RowTask, Future[dict[int, str]]]] = deque()
        threads = ThreadPoolExecutor(_KEY_THREADS, "keys")
        try:
            for task in tasks:
                waiting.append((task, threads.submit(self._keys, task)))
                if len(waiting) >= 4 * _KEY_THREADS:
                    first, keys = waiting.popleft()
                    yield first, keys.result()
            while waiting:
                first, keys = waiting.popleft()
                yield first, keys.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _keys(self, task: RowTask) -> dict[int, str]:
        """The keys of a row's questions; none if its file can't be read: the decoding process says why."""
        try:
            return self._rows.keys(task)
        except (OSError, ValueError):
            return {}

    def _stored_row(self, task: RowTask, steps: _Steps) -> _StoredRow | None:
        """The result of a row whose questions are all answered in the store; None for other rows."""
        found = {number: step for number, step in steps.items() if isinstance(step, StoredResult)}
        if len(found) < len(steps):
            return None
        clip = next(iter(found.values())).clip
        results: dict[int, ColumnResult] = {number: step.result for number, step in found.items()}
        refused = self._rows.refused(task, clip.is_image)
        used = [step for number, step in found.items() if number not in refused]
        return _StoredRow(self._rows.result(task, {**results, **refused}, clip), task.path, task.range, used)

    def finish_ready(self) -> None:
        for _ in range(_MAX_STORED_AHEAD):
            try:
                stored = self._stored.get_nowait()
            except queue.Empty:
                return
            for step in stored.used:
                self._asker.count_stored(step)
            self._not_asked += len(stored.result.results) - len(stored.used)
            self.finish(stored.result, stored.path, stored.part, time.monotonic() if stored.used else None)

    def begin(self, row: Clip | LoadFailure) -> None:
        task, keys, steps = self._tasks.pop(row.row)
        if isinstance(row, LoadFailure):
            self._not_asked += len(self._rows.wanted(task))
            self.finish(self._rows.failed(task, row), task.path, task.range)
            return
        self.open_questions += len(self._rows.wanted(task))
        self._bytes_in_flight += row.frames.nbytes
        self.start(self._ask(row, task, keys, steps))

    async def _ask(self, clip: Clip, task: RowTask, keys: dict[int, str], known: _Steps) -> None:
        """Ask all questions about a clip, and finish its row if all are answered."""
        try:
            begun = time.monotonic()
            results = self._rows.refused(task, clip.is_image)
            self._not_asked += len(results)
            numbers = [number for number in self._rows.wanted(task) if number not in results]
            if numbers and not keys:
                keys = self._keys(task)
            if numbers and not keys:  # its file could be read in between only
                self.finish(self._rows.unreadable(task), task.path, task.range)
                return
            requests = [self._rows.request(clip, task, number, keys[number]) for number in numbers]
            answers = await self.answers(map(self._asker.ask, requests, map(known.get, numbers)))
            if answers is None:
                return
            results |= {number: answer.result for number, answer in zip(numbers, answers, strict=True)}
            answered = AnsweredClip(task.path, clip.partial, clip.is_image)
            result, frames = self._rows.result(task, results, answered), len(clip.frame_index) or None
            self.finish(result, task.path, task.range, begun if numbers else None, frames)
        finally:
            self.open_questions -= len(self._rows.wanted(task))
            self._bytes_in_flight -= clip.frames.nbytes
