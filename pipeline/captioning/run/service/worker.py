"""The loop of a run through a service: load clips, ask the questions about them, write the results to the journal.

One event loop asks; the clips are loaded in processes. Rows whose answers are all in the store are finished without
loading their clips. Knows nothing about requests, retries and pace.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from ...captioners.api.answer import AnsweredClip
from ...captioners.api.asker import Asker, Attempt, StoredResult
from ...captioners.api.errors import NotSent, ServiceStop
from ...captioners.api.sender import Sender
from ...captioners.api.usage import ESTIMATE_AFTER, Usage
from ...clips.clip import Clip, ClipTask, LoadFailure
from ...clips.loader import ClipLoader
from ...meta.results import ColumnResult, RowResult
from ...process.signals import interruption
from ...process.watchdog import Watchdog
from ...workers.leases import RowTask
from ..finished_rows import FinishedRows
from .rows import ServiceRows
from .usage_records import UsageRecords

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
"""Time between two checks whether the run has been interrupted."""
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
    used: Sequence[StoredResult]


class ServiceWorker:
    """Captions the rows of a run through a service.

    make_loader: makes the loader of clips.
    concurrency: questions that are asked at the same time.
    questions: number of questions of the whole run, for the estimate of its cost.
    clip_seconds: time in which a clip is loaded at the latest.
    """

    def __init__(
        self,
        rows: ServiceRows,
        asker: Asker,
        sender: Sender,
        usage: Usage,
        finished: FinishedRows,
        records: UsageRecords,
        watchdog: Watchdog,
        make_loader: MakeLoader,
        concurrency: int,
        questions: int,
        clip_seconds: float,
    ) -> None:
        self._rows, self._asker, self._sender, self._usage = rows, asker, sender, usage
        self._finished, self._records, self._watchdog = finished, records, watchdog
        self._make_loader, self._concurrency = make_loader, concurrency
        self._questions, self._clip_seconds = questions, clip_seconds
        self.wait_seconds = self.decode_seconds = 0.0
        self._tasks: dict[int, tuple[RowTask, dict[int, str], _Steps]] = {}  # rows whose clips are being loaded
        self._stored: queue.Queue[_StoredRow] = queue.Queue(_MAX_STORED_AHEAD)
        self._closing = threading.Event()
        self._rows_in_flight: set[asyncio.Task[None]] = set()
        self._open_questions = self._bytes_in_flight = 0
        self._not_asked = 0  # questions of rows that are finished, but were never asked
        self._problem: BaseException | None = None
        self._has_estimate = False

    async def run(self, tasks: Iterable[RowTask]) -> None:
        """Caption rows until none is left, or until the run ends early. Requests in flight are always awaited.

        Raises:
            ServiceStop: no request can succeed any more.
            RunError: an answer or a result can't be stored, or too many rows fail.
        """
        self._changed = asyncio.Event()
        try:
            with self._make_loader(self._rows_to_load(tasks)) as loader, ThreadPoolExecutor(1) as thread:
                try:
                    await self._loop(loader, thread)
                finally:
                    self._closing.set()
                    self.wait_seconds, self.decode_seconds = loader.wait_seconds, loader.decode_seconds
        finally:
            self._records.add()
        if self._problem is not None:
            raise self._problem

    async def _loop(self, loader: ClipLoader, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        loading: asyncio.Future[Clip | LoadFailure | None] | None = None
        while True:
            self._changed.clear()
            if interruption.requested:
                self._sender.stop()
            is_ending = interruption.requested or self._problem is not None or self._sender.problem is not None
            if loading is not None and loading.done():
                problem, loaded = loading.exception(), None if loading.exception() else loading.result()
                loading = None
                if problem is not None:  # no decoding process can be started
                    self._stop(problem)
                elif loaded is not None and not is_ending:
                    self._begin(loaded)
            self._finish_stored()
            if is_ending:
                self._closing.set()
            has_room = self._open_questions < self._concurrency and self._bytes_in_flight < _BYTES_IN_FLIGHT
            may_load = has_room and not (is_ending or loader.has_ended)
            if loading is None and may_load:
                loading = loop.run_in_executor(thread, loader.next_clip, _POLL_SECONDS)
                loading.add_done_callback(lambda _: self._changed.set())
            if loading is None and not self._rows_in_flight and (is_ending or loader.has_ended):
                break
            self._record_progress()
            try:
                await asyncio.wait_for(self._changed.wait(), _POLL_SECONDS)
            except asyncio.TimeoutError:
                continue
        self._finish_stored()
        self._problem = self._problem or self._sender.problem

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
                    self._stored.put(stored, timeout=_POLL_SECONDS)
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
        return _StoredRow(self._rows.result(task, {**results, **refused}, clip), task.path, used)

    def _finish_stored(self) -> None:
        for _ in range(_MAX_STORED_AHEAD):
            try:
                stored = self._stored.get_nowait()
            except queue.Empty:
                return
            for step in stored.used:
                self._asker.count_stored(step)
            self._not_asked += len(stored.result.results) - len(stored.used)
            self._finish(stored.result, stored.path)

    def _finish(self, result: RowResult, path: str) -> None:
        if self._problem is None:
            try:
                self._finished.service_has_answered = self._usage.has_answers
                self._finished.add(result, path)
            except Exception as error:
                self._stop(error)

    def _begin(self, loaded: Clip | LoadFailure) -> None:
        task, keys, steps = self._tasks.pop(loaded.row)
        if isinstance(loaded, LoadFailure):
            self._not_asked += len(self._rows.wanted(task))
            self._finish(self._rows.failed(task, loaded), loaded.path)
            return
        self._open_questions += len(self._rows.wanted(task))
        self._bytes_in_flight += loaded.frames.nbytes
        in_flight = asyncio.ensure_future(self._ask(loaded, task, keys, steps))
        self._rows_in_flight.add(in_flight)
        in_flight.add_done_callback(self._rows_in_flight.discard)
        in_flight.add_done_callback(lambda _: self._changed.set())

    async def _ask(self, clip: Clip, task: RowTask, keys: dict[int, str], known: _Steps) -> None:
        """Ask all questions about a clip, and finish its row if all are answered."""
        try:
            results = self._rows.refused(task, clip.is_image)
            self._not_asked += len(results)
            numbers = [number for number in self._rows.wanted(task) if number not in results]
            if numbers and not keys:
                keys = self._keys(task)
            if numbers and not keys:  # its file could be read in between only
                self._finish(self._rows.unreadable(task), task.path)
                return
            requests = [self._rows.request(clip, task, number, keys[number]) for number in numbers]
            asking = map(self._asker.ask, requests, map(known.get, numbers))
            steps = await asyncio.gather(*asking, return_exceptions=True)
            for error in steps:
                if isinstance(error, BaseException) and not isinstance(error, (NotSent, ServiceStop)):
                    raise error
            if any(isinstance(step, BaseException) for step in steps):
                return  # the run ends; the answers that arrived are in the store
            for number, step in zip(numbers, steps, strict=True):
                assert isinstance(step, StoredResult)
                results[number] = step.result
            answered = AnsweredClip(task.path, clip.partial, clip.is_image)
            self._finish(self._rows.result(task, results, answered), task.path)
        except Exception as error:  # the store or the journal can't be written, or an error of this program
            self._stop(error)
        finally:
            self._open_questions -= len(self._rows.wanted(task))
            self._bytes_in_flight -= clip.frames.nbytes

    def _stop(self, error: BaseException) -> None:
        self._problem = self._problem or error
        self._sender.stop()

    def _record_progress(self) -> None:
        # Requests have time limits of their own, and a service may ask for a pause of hours.
        if self._open_questions:
            self._watchdog.progress()
        else:
            self._watchdog.allow(self._clip_seconds)
        if self._usage.asked >= ESTIMATE_AFTER and not self._has_estimate:
            self._has_estimate = True
            remaining = self._questions - self._usage.outcomes.total() - self._not_asked
            logger.info("estimate for the whole run: %s", self._usage.estimate(max(0, remaining)))
        self._records.add_if_due()
        self._finished.report_counts()
