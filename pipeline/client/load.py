"""Sends requests in one of four ways, and measures how fast they are answered. Knows nothing about their content.

The ways are those in which programs use a captioning server:

- `single`: one by one;
- `batch`: so many at once; the next batch begins when every request of the batch has ended;
- `stream`: so many in flight all the time; each request that ends is followed by the next one;
- `batched-stream`: several batches in flight; each batch that has ended is followed by the next one.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ..captioning.captioners.api.errors import RequestFailed

SINGLE, BATCH, STREAM, BATCHED_STREAM = MODES = ("single", "batch", "stream", "batched-stream")


@dataclass(frozen=True)
class Load:
    """requests: of each mode. batch: requests of a batch. in_flight: most requests in flight in the stream modes."""

    requests: int
    batch: int
    in_flight: int

    def most_in_flight(self, mode: str) -> int:
        """Requests in flight at most; `batched-stream` has whole batches, at least one."""
        return self.lanes(mode) * self.batch_size(mode)

    def batch_size(self, mode: str) -> int:
        """Requests that begin together and that are waited for together."""
        return self.batch if mode in (BATCH, BATCHED_STREAM) else 1

    def lanes(self, mode: str) -> int:
        """Batches in flight."""
        if mode == STREAM:
            return self.in_flight
        return max(1, self.in_flight // self.batch) if mode == BATCHED_STREAM else 1


@dataclass
class Answers:
    """latencies: seconds from sending to the answer. tokens: generated. problems: messages of failed requests."""

    latencies: list[float] = field(default_factory=list)
    tokens: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Figures:
    """What was measured with one mode.

    requests: sent, each counted once. failures: those without an answer. retries: requests that were sent again.
    seconds: from the first request to the last answer. in_flight: most requests in flight.
    clips, frames, tokens, megabytes: of the answered requests per second; tokens are the generated ones, a megabyte is
        10**6 bytes of data URLs.
    latency_median, latency_p99: seconds; those of requests that were sent again contain the waits. NaN without answers.
    problem: the first message of a failed request; empty if none failed.
    """

    mode: str
    requests: int
    in_flight: int
    failures: int
    retries: int
    seconds: float
    clips: float
    frames: float
    tokens: float
    megabytes: float
    latency_median: float
    latency_p99: float
    problem: str = ""


async def run(mode: str, load: Load, ask: Callable[[int], Awaitable[int]]) -> tuple[Answers, float]:
    """Send the requests of a mode; returns the answers, and the seconds that all of them took.

    ask: sends the request with this number and returns the number of generated tokens. A RequestFailed is counted, any
        other error ends all requests.
    """
    answers = Answers()

    async def ask_one(number: int) -> None:
        begin = time.perf_counter()
        try:
            tokens = await ask(number)
        except RequestFailed as error:
            answers.problems.append(str(error))
        else:
            answers.latencies.append(time.perf_counter() - begin)
            answers.tokens += tokens

    async def ask_batches(batches: Iterator[Sequence[int]]) -> None:
        for batch in batches:  # all lanes take from the same iterator
            await _all(*(ask_one(number) for number in batch))

    size = load.batch_size(mode)
    batches = (range(first, min(first + size, load.requests)) for first in range(0, load.requests, size))
    begin = time.perf_counter()
    await _all(*(ask_batches(batches) for _ in range(load.lanes(mode))))
    return answers, time.perf_counter() - begin


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not less than this share of all values; NaN without values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


def median(values: Sequence[float]) -> float:
    """NaN without values."""
    return statistics.median(values) if values else math.nan


async def _all(*coroutines: Awaitable[None]) -> None:
    """Wait for all. The first error ends the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
