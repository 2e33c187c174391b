"""The loop of a run through a service: take rows, ask their questions, write the results to the journal.

One event loop asks; rows are taken in a thread. What a row is, a subclass says: a clip (`worker`), or a video whose
captions are summarised (`summary_worker`). Knows nothing about requests, retries and pace.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from ...captioners.api.asker import StoredResult
from ...captioners.api.errors import NotSent, ServiceStop
from ...captioners.api.sender import Sender
from ...captioners.api.usage import ESTIMATE_AFTER, Usage
from ...clips.time_range import TimeRange
from ...meta.results import RowResult
from ...process.signals import interruption
from ...process.watchdog import Watchdog
from ..finished_rows import FinishedRows
from .usage_records import UsageRecords

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""Time between two checks whether the run has been interrupted."""

RowT = TypeVar("RowT")
"""A row that was taken."""


@dataclass(frozen=True)
class LoopParts:
    """What every loop needs.

    concurrency: questions that are asked at the same time.
    wait_seconds: time in which a row can be taken at the latest.
    times_rows: see `JobOptions`.
    """

    sender: Sender
    usage: Usage
    finished: FinishedRows
    records: UsageRecords
    watchdog: Watchdog
    concurrency: int
    wait_seconds: float
    times_rows: bool = False


class ServiceLoop(ABC, Generic[RowT]):
    """Asks the questions about rows until none is left, or until the run ends early.

    open_questions: that are being asked.
    """

    def __init__(self, parts: LoopParts) -> None:
        self.parts = parts
        self.open_questions = 0
        self._rows_in_flight: set[asyncio.Task[None]] = set()
        self._problem: BaseException | None = None
        self._has_estimate = False

    @abstractmethod
    def begin(self, row: RowT) -> None:
        """Ask the questions about a row (`start`), or finish it."""

    @abstractmethod
    def remaining_questions(self) -> int:
        """The number of questions that remain to be asked, for the estimate of the cost. May be a guess."""

    @property
    def has_room(self) -> bool:
        """Whether another row may be taken."""
        return self.open_questions < self.parts.concurrency

    def finish_ready(self) -> None:
        """Finish rows that need no question."""
        return None

    def close(self) -> None:
        """No row is taken any more; may be called several times."""
        return None

    async def loop(self, next_row: Callable[[float], RowT | None], has_ended: Callable[[], bool]) -> None:
        """Take rows and ask their questions. Requests in flight are always awaited.

        next_row: gives a row; None after the last one, or if none is ready within so many seconds. Runs in a thread.
        has_ended: whether `next_row` has given all rows.

        Raises:
            ServiceStop: no request can succeed any more.
            RunError: an answer or a result can't be stored, or too many rows fail.
        """
        self._changed = asyncio.Event()
        try:
            with ThreadPoolExecutor(1) as thread:
                try:
                    await self._loop(next_row, has_ended, thread)
                finally:
                    self.close()
        finally:
            self.parts.records.add()
        if self._problem is not None:
            raise self._problem

    async def _loop(
        self, next_row: Callable[[float], RowT | None], has_ended: Callable[[], bool], thread: ThreadPoolExecutor
    ) -> None:
        event_loop, sender = asyncio.get_running_loop(), self.parts.sender
        taking: asyncio.Future[RowT | None] | None = None
        while True:
            self._changed.clear()
            if interruption.requested:
                sender.stop()
            is_ending = interruption.requested or self._problem is not None or sender.problem is not None
            if taking is not None and taking.done():
                problem, row = taking.exception(), None if taking.exception() else taking.result()
                taking = None
                if problem is not None:  # no decoding process can be started, for example
                    self._stop(problem)
                elif row is not None and not is_ending:
                    self.begin(row)
            self.finish_ready()
            if is_ending:
                self.close()
            if taking is None and self.has_room and not (is_ending or has_ended()):
                taking = event_loop.run_in_executor(thread, next_row, POLL_SECONDS)
                taking.add_done_callback(lambda _: self._changed.set())
            if taking is None and not self._rows_in_flight and (is_ending or has_ended()):
                break
            self._record_progress()
            try:
                await asyncio.wait_for(self._changed.wait(), POLL_SECONDS)
            except asyncio.TimeoutError:
                continue
        self.finish_ready()
        self._problem = self._problem or sender.problem

    def start(self, asking: Coroutine[Any, Any, None]) -> None:
        """Ask the questions about a row while others are asked. An error of the coroutine ends the run."""
        in_flight = asyncio.ensure_future(self._guarded(asking))
        self._rows_in_flight.add(in_flight)
        in_flight.add_done_callback(self._rows_in_flight.discard)
        in_flight.add_done_callback(lambda _: self._changed.set())

    async def _guarded(self, asking: Coroutine[Any, Any, None]) -> None:
        try:
            await asking
        except Exception as error:  # the store or the journal can't be written, or an error of this program
            self._stop(error)

    async def answers(self, asking: Iterable[Awaitable[StoredResult]]) -> list[StoredResult] | None:
        """The answers to questions that are asked together; None if the run ends before all of them are answered.

        In that case the answers that arrived are in the store.
        """
        steps = await asyncio.gather(*asking, return_exceptions=True)
        for error in steps:
            if isinstance(error, BaseException) and not isinstance(error, (NotSent, ServiceStop)):
                raise error
        self._changed.set()
        found = [step for step in steps if not isinstance(step, BaseException)]
        return found if len(found) == len(steps) else None

    def finish(
        self,
        result: RowResult,
        path: str,
        part: TimeRange | None = None,
        begun: float | None = None,
        frames: int | None = None,
    ) -> None:
        """Write the result of a row to the journal.

        path, part: as for `FinishedRows.add`.
        begun: when its first question was asked, on the clock of `time.monotonic`; None if none was asked.
        frames: sampled of its clip; None if it has none.
        """
        if self._problem is not None:
            return
        if self.parts.times_rows and begun is not None:
            result = replace(result, seconds=round(time.monotonic() - begun, 3), frames=frames)
        try:
            self.parts.finished.service_has_answered = self.parts.usage.has_answers
            self.parts.finished.add(result, path, part)
        except Exception as error:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        self._problem = self._problem or error
        self.parts.sender.stop()

    def _record_progress(self) -> None:
        parts = self.parts
        # Requests have time limits of their own, and a service may ask for a pause of hours.
        if self.open_questions:
            parts.watchdog.progress()
        else:
            parts.watchdog.allow(parts.wait_seconds)
        if parts.usage.asked >= ESTIMATE_AFTER and not self._has_estimate:
            self._has_estimate = True
            remaining = max(0, self.remaining_questions())
            logger.info("estimate for the whole run: %s", parts.usage.estimate(remaining))
        parts.records.add_if_due()
        parts.finished.report_counts()
