"""The loop of a run through a service, with a loader and an asker that do what they are told."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from pipeline.captioning.captioners.api.answer import Answer, AnsweredClip
from pipeline.captioning.captioners.api.asker import Asker, Attempt, StoredResult
from pipeline.captioning.captioners.api.requests import ServiceRequest
from pipeline.captioning.captioners.api.sender import Sender
from pipeline.captioning.captioners.api.usage import ESTIMATE_AFTER, Usage
from pipeline.captioning.clips.clip import Clip, ClipTask, LoadFailure
from pipeline.captioning.clips.loader import ClipLoader
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.results import CaptionResult, ColumnResult, Failure, RowResult
from pipeline.captioning.process.watchdog import Watchdog
from pipeline.captioning.run.finished_rows import FinishedRows
from pipeline.captioning.run.service import loop
from pipeline.captioning.run.service.loop import LoopParts
from pipeline.captioning.run.service.rows import ServiceRows
from pipeline.captioning.run.service.usage_records import UsageRecords
from pipeline.captioning.run.service.worker import ServiceWorker
from pipeline.captioning.workers.leases import RowTask

MIB = 2**20
CAPTION = CaptionResult("A dog.", 3)


class FakeLoader:
    """Loads clips as large as their paths say (`10 MiB`), at once; other paths can't be loaded."""

    wait_seconds = decode_seconds = 0.0

    def __init__(self, items: Iterable[ClipTask]) -> None:
        self._items = iter(items)
        self.has_ended = False

    def __enter__(self) -> FakeLoader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def next_clip(self, timeout: float) -> Clip | LoadFailure | None:
        for item in self._items:
            row, path = item.row, item.path
            if not path.endswith("MiB"):
                return LoadFailure(row, path, "decode", ("broken",))
            frames = np.broadcast_to(np.uint8(0), (int(path.split()[0]) * MIB,))  # takes no memory
            return Clip(row, path, frames, ())
        self.has_ended = True
        return None


class FakeRows:
    """One question about each row; rows whose path begins with `stored` are in the store."""

    def wanted(self, task: RowTask) -> tuple[int, ...]:
        return (0,)

    def keys(self, task: RowTask) -> dict[int, str]:
        return {0: f"{task.path} {task.row}"}

    def request(self, clip: Clip, task: RowTask, number: int, key: str) -> ServiceRequest:
        return ServiceRequest(key, lambda: "What?")

    def refused(self, task: RowTask, is_image: bool) -> dict[int, ColumnResult]:
        return {}

    def result(self, task: RowTask, results: dict[int, ColumnResult], clip: AnsweredClip) -> RowResult:
        return RowResult(task.row, {"text": results[0]})

    def failed(self, task: RowTask, failure: LoadFailure) -> RowResult:
        return RowResult.failed(task.row, ["text"], failure.stage, failure.messages)


class FakeAsker:
    """Answers when `may_answer` is set. steps: what the worker knew about the questions."""

    def __init__(self, usage: Usage) -> None:
        self.usage = usage
        self.may_answer = asyncio.Event()
        self.in_flight: list[str] = []
        self.steps: list[Attempt | StoredResult | None] = []

    def next(self, key: str) -> Attempt | StoredResult:
        return StoredResult(CAPTION, "success", AnsweredClip()) if key.startswith("stored") else Attempt(0)

    def count_stored(self, result: StoredResult) -> StoredResult:
        self.usage.stored += 1
        self.usage.outcomes[result.outcome] += 1
        return result

    async def ask(self, request: ServiceRequest, step: Attempt | StoredResult | None = None) -> StoredResult:
        self.steps.append(step)
        self.in_flight.append(request.key)
        await self.may_answer.wait()
        self.in_flight.remove(request.key)
        self.usage.add(Answer("A dog.", prompt_tokens=1000, completion_tokens=100))
        self.usage.outcomes["success"] += 1
        return StoredResult(CAPTION, "success", AnsweredClip())


class Fakes:
    """The other parts of a run, which do nothing. finished: the results."""

    problem = None

    def __init__(self) -> None:
        self.finished: dict[int, RowResult] = {}

    def add(self, result: RowResult | None = None, path: str = "", part: TimeRange | None = None) -> None:
        if result is not None:
            self.finished[result.row] = result

    def nothing(self, *_: Any) -> None:
        pass

    stop = progress = allow = add_if_due = report_counts = nothing


def _run(
    paths: Sequence[str],
    use: Callable[[FakeAsker], Coroutine[Any, Any, None]],
    concurrency: int = 32,
    times_rows: bool = False,
) -> tuple[FakeAsker, dict[int, RowResult]]:
    async def main() -> tuple[FakeAsker, dict[int, RowResult]]:
        usage, fakes = Usage(), Fakes()
        asker = FakeAsker(usage)
        parts = LoopParts(
            cast(Sender, fakes),
            usage,
            cast(FinishedRows, fakes),
            cast(UsageRecords, fakes),
            cast(Watchdog, fakes),
            concurrency,
            wait_seconds=1.0,
            times_rows=times_rows,
        )
        running = ServiceWorker(
            cast(ServiceRows, FakeRows()),
            cast(Asker, asker),
            parts,
            lambda items: cast(ClipLoader, FakeLoader(items)),
            questions=len(paths),
        )
        tasks = deque(RowTask(row, path) for row, path in enumerate(paths))
        await asyncio.wait_for(asyncio.gather(running.run(tasks), use(asker)), 20)
        return asker, fakes.finished

    return asyncio.run(main())


async def _settled(asker: FakeAsker) -> int:
    """The number of questions in flight when no more are asked."""
    count = -1
    while count != len(asker.in_flight):
        count = len(asker.in_flight)
        await asyncio.sleep(0.3)
    return count


@pytest.mark.parametrize(
    ("size", "in_flight"), [("1 MiB", 8), ("100 MiB", 3), ("128 MiB", 2), ("256 MiB", 1), ("900 MiB", 1)]
)
def test_large_clips_in_flight_are_limited(size: str, in_flight: int) -> None:
    async def use(asker: FakeAsker) -> None:
        assert await _settled(asker) == in_flight
        asker.may_answer.set()

    _, finished = _run([size] * 9, use, concurrency=8)
    assert sorted(finished) == list(range(9)), "the others follow"


def test_the_store_is_asked_once_for_each_row() -> None:
    async def use(asker: FakeAsker) -> None:
        asker.may_answer.set()

    asker, finished = _run(["stored", "1 MiB", "stored", "2 MiB", "broken"], use)
    assert asker.steps == [Attempt(0), Attempt(0)]
    assert [isinstance(finished[row].results["text"], Failure) for row in range(5)] == [False] * 4 + [True]


def test_the_estimate_knows_rows_that_cost_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Stored rows and rows that can't be loaded are not among the remaining ones."""
    caplog.set_level(logging.INFO, loop.__name__)

    async def use(asker: FakeAsker) -> None:
        asker.may_answer.set()

    paths = ["stored"] * 7 + ["broken"] * 5 + ["1 MiB"] * (ESTIMATE_AFTER + 3)
    _run(paths, use, concurrency=1)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "estimate for the whole run: about 23,000 tokens in, 2,300 out"


@pytest.mark.parametrize("times_rows", [True, False])
def test_seconds_are_those_from_the_first_question_to_the_last_answer(times_rows: bool) -> None:
    async def use(asker: FakeAsker) -> None:
        await asyncio.sleep(0.5)
        asker.may_answer.set()

    _, finished = _run(["stored", "1 MiB", "broken"], use, times_rows=times_rows)
    assert finished[2].seconds is None, "nothing was asked"
    if times_rows:
        seconds = finished[1].seconds
        assert seconds is not None and 0.1 < seconds < 60 and seconds == round(seconds, 3)
        assert finished[0].seconds == 0, "the store has the answer"
    else:
        assert finished[0].seconds is finished[1].seconds is None
