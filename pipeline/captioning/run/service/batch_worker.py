"""The rows of a run with `--batch`: their questions into request files, their results to the journal.

It works in rounds. A round gives a result to each row whose questions are all answered or failed, and writes the
requests of the others; then it waits until the results of all batches are stored. Knows nothing about the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...captioners.api.answer import Answer
from ...captioners.api.asker import Asker, Attempt
from ...captioners.api.batch.batch_service import BatchService
from ...captioners.api.batch.batches import MAX_OPEN, Batches
from ...captioners.api.batch.records import BatchRecords, custom_id, job_of
from ...captioners.api.batch.request_files import MAX_BYTES, MAX_REQUESTS, RequestFile, line_of
from ...captioners.api.batch.rough_tokens import rough_tokens
from ...captioners.api.errors import SERVICE, ServiceStop
from ...captioners.api.options import ServiceOptions
from ...captioners.api.store import AnswerStore
from ...captioners.api.usage import Usage
from ...clips.clip import Clip, ClipTask, LoadFailure
from ...clips.loader import ClipLoader
from ...clips.time_range import TimeRange
from ...meta.results import Failure, RowResult
from ...process.errors import RunError
from ...process.signals import interruption
from ...workers.leases import RowTask
from ..finished_rows import MassFailure
from ..options import JobOptions
from .batch_questions import BatchQuestions, KnownAnswers
from .rows import ServiceRows

logger = logging.getLogger(__name__)

MAX_ROUNDS = 100
"""A row that is not finished then fails: its file changes all the time."""
FIRST_REQUESTS = 100
"""Most requests of the first file with `--max_cost`: the others wait until these show what an answer costs."""
_WAITING_RESULTS = 1024
"""Results of rows that wait for the journal while clips are being decoded."""
_SLICE_SECONDS = 0.5
"""Longest time without a look whether the run was interrupted."""


@dataclass
class BatchWorker:
    """Captions rows through the Batch API.

    make_loader: makes the loader of clips.
    rows: the questions of a row.
    finish: receives the result of each row, its path and its range.
    progress: called often, also while the run waits for the service.
    api: its `sleep` is set to `wait`, so that `progress` is called during its calls.
    max_open, max_requests, max_bytes: see `Batches`.
    discards_journals: as of `RankPlan`: open batches are not continued, as with `--restart`.
    """

    options: JobOptions
    service: ServiceOptions
    make_loader: Callable[[Iterable[ClipTask]], ClipLoader]
    rows: ServiceRows
    asker: Asker
    store: AnswerStore
    usage: Usage
    finish: Callable[[RowResult, str, TimeRange | None], None]
    api: BatchService
    progress: Callable[[], None] = lambda: None
    max_open: int = MAX_OPEN
    max_requests: int = MAX_REQUESTS
    max_bytes: int = MAX_BYTES
    discards_journals: bool = False

    def __post_init__(self) -> None:
        self._job = job_of(self.options.output)
        answers = self.service.answers
        self._folder = answers.with_name(f"{answers.stem}_batches_{self._job}")
        self._rough_cost = 0.0  # of the requests of `_file`
        self._records = BatchRecords(self.store, self._job)
        self._questions = BatchQuestions(self.rows, self.asker, self._records, self._is_written, self.usage)
        self.api.sleep = self.wait
        self._batches = Batches(
            self.api,
            self.store,
            self._records,
            self._folder,
            self._on_answer,
            self._on_fetched,
            self.wait,
            self.service.poll_seconds,
            self.max_open,
            self.max_requests,
            self.max_bytes,
            self.options.restart or self.discards_journals,
        )
        self._file: RequestFile | None = None
        self._loading: dict[int, tuple[RowTask, Mapping[int, str] | None]] = {}  # by row
        self._later: list[RowTask] = []
        self._results: queue.Queue[tuple[RowTask, KnownAnswers]] = queue.Queue(_WAITING_RESULTS)
        self._is_stopping = False
        # Questions of all rows, and of those that were looked at. The threads of the loader count for themselves.
        self._all_questions = self._seen_by_threads = self._seen = 0
        self._has_estimate = False

    async def run(self, tasks: Iterable[RowTask]) -> None:
        """Caption all rows. When this returns, `finish` has received each of them.

        Raises:
            ServiceStop: no request can succeed any more, or `--max_cost` is reached. Open batches are noted.
            MassFailure, RunError: of `finish`, or an answer can't be stored.
            KeyboardInterrupt: a signal interrupted the run.
        """
        remaining = list(tasks)
        self._all_questions = sum(len(self.rows.wanted(task)) for task in remaining)
        try:
            await self._batches.resume()
            for _ in range(MAX_ROUNDS):
                if not remaining:
                    break
                remaining = await self._round(remaining)
                await self._batches.wait_for_all(self._questions.needed)
            for task in remaining:
                message = f"the question changed in each of {MAX_ROUNDS} rounds: does the file change?"
                failure = LoadFailure(task.row, task.path, SERVICE, (message,))
                self.finish(self.rows.failed(task, failure), task.path, task.range)
        except MassFailure:
            await self._records.forget_failures()
            raise
        except KeyboardInterrupt:
            count = self._batches.open_requests
            if count:
                logger.info("%d requests are in open batches; the next run fetches their answers", count)
            raise
        except OSError as error:
            raise RunError(f"the request files in {self._folder}: {error}") from error
        await self._records.forget_failures()
        self._batches.close()

    async def wait(self, seconds: float) -> None:
        """Wait, and report progress meanwhile.

        Raises:
            KeyboardInterrupt: a signal interrupted the run.
        """
        end = time.monotonic() + seconds
        while True:
            self.progress()
            if interruption.requested:
                raise KeyboardInterrupt
            left = end - time.monotonic()
            await asyncio.sleep(max(0.0, min(left, _SLICE_SECONDS)))
            if left <= _SLICE_SECONDS:
                return

    async def _round(self, tasks: Sequence[RowTask]) -> list[RowTask]:
        """Finish the rows that can be, and submit the requests of the others; returns the others."""
        self._later, self._is_stopping = [], False
        with self.make_loader(self._to_load(tasks)) as loader, contextlib.ExitStack() as stack:
            stack.callback(self._stop_threads)
            while not loader.has_ended:
                loaded = await asyncio.to_thread(loader.next_clip, _SLICE_SECONDS)
                await self.wait(0)
                self._finish_waiting()
                if loaded is not None:
                    task, keys = self._loading.pop(loaded.row)
                    await self._take(task, keys, loaded)
                    self._seen += len(self.rows.wanted(task))
                await self._batches.poll_if_due()
        self._finish_waiting()
        await self._submit()
        return sorted(self._later, key=lambda task: task.row)

    def _to_load(self, tasks: Iterable[RowTask]) -> Iterator[ClipTask]:
        """The rows whose clips are needed; runs in the threads of the loader, one at a time."""
        for task in tasks:
            keys = self._questions.keys(task)
            known = None if keys is None else self._questions.known(task, keys)
            if known is None or known.new:
                self._loading[task.row] = task, keys
                yield task.clip
                continue
            if known.asked:
                self._later.append(task)
            else:
                self._put(task, known)
            self._seen_by_threads += len(self.rows.wanted(task))

    def _put(self, task: RowTask, known: KnownAnswers) -> None:
        while not self._is_stopping:
            with contextlib.suppress(queue.Full):
                self._results.put((task, known), timeout=_SLICE_SECONDS)
                return

    def _stop_threads(self) -> None:
        self._is_stopping = True

    def _finish_waiting(self) -> None:
        while True:
            try:
                task, known = self._results.get_nowait()
            except queue.Empty:
                return
            self._finish(task, known)

    def _is_written(self, request: str) -> bool:
        file = self._file
        return file is not None and request in file.requests

    async def _take(self, task: RowTask, keys: Mapping[int, str] | None, loaded: Clip | LoadFailure) -> None:
        """Write the requests of a loaded clip."""
        if keys is None:
            keys = self._questions.keys(task)
        if keys is None:
            unread = self.rows.failed(task, loaded) if isinstance(loaded, LoadFailure) else self.rows.unreadable(task)
            self.finish(unread, task.path, task.range)
            return
        if isinstance(loaded, Clip):
            self._questions.loaded(task, loaded)
        for number, (key, attempt) in self._questions.known(task, keys).new.items():
            if isinstance(loaded, Clip):
                await self._write(task, loaded, number, key, attempt)
            else:
                self._questions.failed(task, number, Failure(loaded.stage, loaded.messages))
        known = self._questions.known(task, keys)
        if known.asked or known.new:
            self._later.append(task)
        else:
            self._finish(task, known)

    async def _write(self, task: RowTask, clip: Clip, number: int, key: str, attempt: Attempt) -> None:
        """Add a request to the request file; submit the file before if it has no room for it."""
        request_id = custom_id(key, attempt.number)
        if self._is_written(request_id):  # the row asks the same question twice
            return
        request = self.rows.request(clip, task, number, key)
        body = self.asker.body(request, attempt)
        line = line_of(request_id, body)
        if len(line) > self.max_bytes:
            smaller = "use --send images" if clip.mime_type else "send fewer or smaller frames"
            message = (
                f"the request has {len(line):,} bytes, but a request file of the Batch API may have "
                f"{self.max_bytes:,}: {smaller}"
            )
            self._questions.failed(task, number, Failure("prepare", (message,)))
            return
        rough_cost = self._rough_cost_of(body)
        await self._keep_budget(rough_cost)
        file = self._file
        if file is not None and not file.has_room(line, self._batches.max_requests, self._batches.max_bytes):
            await self._submit()
        if self._file is None:
            self._file = RequestFile(self._folder, self._job)
        self._file.add(request_id, line, request.clip)
        self._rough_cost += rough_cost

    def _rough_cost_of(self, body: Mapping[str, Any]) -> float:
        prices = self.usage.prices
        return prices.cost(*rough_tokens(body, self.service.generation.max_new_tokens)) if prices else 0.0

    async def _keep_budget(self, rough_cost: float) -> None:
        """Wait until another request is within `--max_cost`.

        rough_cost: of this request; it counts as long as no answer shows what one costs.

        Raises:
            ServiceStop: it is not, and no batch is open.
        """
        while self.usage.has_budget:
            expected = len(self._file.requests) if self._file else 0
            submitted = self._batches.open_requests
            if self._is_price_known:
                is_within = True
            else:
                is_within = not submitted and expected < FIRST_REQUESTS and self._is_roughly_within(rough_cost)
            if is_within and self.usage.may_send(submitted + expected):
                return
            if not submitted and not expected:
                raise ServiceStop(self.usage.why_not_sent(), hint="")
            await self._submit()
            await self._batches.wait_for_all(self._questions.needed)

    @property
    def _is_price_known(self) -> bool:
        return self.usage.answers > self.usage.without_usage

    def _is_roughly_within(self, rough_cost: float) -> bool:
        """Whether another request in the first file is within `--max_cost`; the first request always is."""
        prices, spent = self.usage.prices, self.usage.cost() or 0.0
        assert prices is not None and prices.max_cost is not None
        return self._file is None or spent + self._rough_cost + rough_cost <= prices.max_cost

    async def _submit(self) -> None:
        file, self._file = self._file, None
        self._rough_cost = 0.0
        if file is not None:
            self.usage.requests += len(file.requests)
            await self._batches.submit(file)

    def _on_answer(self, key: str, answer: Answer) -> None:
        self.usage.add(answer)
        self._questions.paid(key)

    def _on_fetched(self) -> None:
        """Log what the whole run takes, as soon as there are answers."""
        if self._has_estimate or not self.usage.answers:
            return
        self._has_estimate = True
        in_file = len(self._file.requests) if self._file else 0
        unseen = max(0, self._all_questions - self._seen_by_threads - self._seen)  # later rounds look at rows again
        estimate = self.usage.estimate(self._batches.open_requests + in_file + unseen)
        logger.info("estimate for the whole run: %s", estimate)

    def _finish(self, task: RowTask, known: KnownAnswers) -> None:
        self.finish(self._questions.result(task, known), task.path, task.range)
