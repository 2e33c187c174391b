"""Sending until there is an answer, in simulated time, with a service that does what it is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from pipeline.captioning.captioners.api.answer import Answer
from pipeline.captioning.captioners.api.errors import BLOCKED, NotSent, RequestFailed, ServiceStop, TryAgain
from pipeline.captioning.captioners.api.options import Limits, Prices
from pipeline.captioning.captioners.api.pace import Pace
from pipeline.captioning.captioners.api.sender import Sender
from pipeline.captioning.captioners.api.service import Service
from pipeline.captioning.captioners.api.usage import ESTIMATE_AFTER, Usage

from .simulated_time import run_simulated

ANSWER = Answer("A dog.", prompt_tokens=1000, completion_tokens=100)
NO_USAGE = Answer("A dog.", has_usage=False)


class FakeService:
    """Answers or fails as `replies` say, one after another, and then as the last one says, after `seconds`."""

    def __init__(self, replies: list[Answer | Exception], seconds: float = 0.0) -> None:
        self._replies, self._seconds = replies, seconds
        self.sent: list[tuple[float, int]] = []  # when, and how many requests there were before
        self.in_flight = self.most_in_flight = 0

    async def complete(self, body: dict[str, Any]) -> Answer:
        self.sent.append((asyncio.get_running_loop().time(), body["number"]))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        await asyncio.sleep(self._seconds)
        self.in_flight -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.sent]


class Run:
    """A sender with a fake service; waits are as long as they can be. Answers are counted as soon as they arrive."""

    def __init__(
        self, *replies: Answer | Exception, seconds: float = 0.0, prices: Prices | None = None, **limits: Any
    ) -> None:
        self.service = FakeService(list(replies), seconds)
        self.usage = Usage(prices)
        settings = Limits(**limits)
        self.pace = Pace(settings, jitter=lambda longest: longest)
        self.sender = Sender(
            cast(Service, self.service), self.pace, settings, self.usage, jitter=lambda longest: longest
        )
        self._numbers: Iterator[int] = iter(range(10**6))

    async def one(self) -> Answer:
        answer = await self.sender.send(lambda: {"number": next(self._numbers)})
        self.usage.add(answer)
        return answer

    async def many(self, count: int) -> list[Answer | BaseException]:
        return await asyncio.gather(*(self.one() for _ in range(count)), return_exceptions=True)


def in_loop(make: Callable[[], Run], use: Callable[[Run], Any]) -> Run:
    """Make the run and use it in one event loop, as its objects ask for."""

    async def main() -> Run:
        run = make()
        await use(run)
        return run

    return run_simulated(main())


def busy(text: str = "HTTP 503") -> TryAgain:
    return TryAgain(text)


def test_an_answer() -> None:
    async def use(run: Run) -> None:
        assert await run.one() == ANSWER

    run = in_loop(lambda: Run(ANSWER), use)
    assert (run.usage.requests, run.usage.retries) == (1, 0)
    assert run.sender.problem is None and not run.sender.stopped.is_set()


def test_waits_grow_and_each_try_has_a_new_body() -> None:
    async def use(run: Run) -> None:
        assert await run.one() == ANSWER

    run = in_loop(lambda: Run(*[busy()] * 8, ANSWER, max_tries=10), use)
    assert run.service.times == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert [number for _, number in run.service.sent] == list(range(9))
    assert (run.usage.requests, run.usage.retries) == (9, 8)


def test_default_waits_are_jittered_and_not_longer() -> None:
    waits: set[float] = set()

    async def use(run: Run) -> None:
        run.sender = Sender(cast(Service, run.service), run.pace, Limits(max_tries=2), run.usage)
        await run.one()
        waits.add(run.service.times[1])

    for _ in range(30):
        in_loop(lambda: Run(busy(), ANSWER), use)
    assert len(waits) > 5 and min(waits) >= 0 and max(waits) <= 1


def test_the_failure_after_max_tries_has_every_different_message() -> None:
    async def use(run: Run) -> None:
        with pytest.raises(RequestFailed) as caught:
            await run.one()
        assert str(caught.value) == "not answered in 4 tries: HTTP 503 (3 times); no connection"

    run = in_loop(lambda: Run(busy(), busy("no connection"), busy(), busy(), ANSWER, max_tries=4), use)
    assert len(run.service.sent) == 4
    assert not run.sender.stopped.is_set(), "other requests may be answered"


def test_a_request_that_is_not_accepted_is_not_sent_again() -> None:
    async def use(run: Run) -> None:
        with pytest.raises(RequestFailed, match=r"^too large$") as caught:
            await run.one()
        assert caught.value.stage == BLOCKED
        with pytest.raises(RequestFailed, match=r"^too large; before that: HTTP 503$") as caught:
            await run.one()
        assert caught.value.stage == BLOCKED

    run = in_loop(lambda: Run(RequestFailed("too large", BLOCKED), busy(), RequestFailed("too large", BLOCKED)), use)
    assert len(run.service.sent) == 3


def test_a_busy_service_may_ask_for_a_longer_wait() -> None:
    run = in_loop(lambda: Run(TryAgain("HTTP 503", retry_after=500.0), ANSWER), lambda run: run.one())
    assert run.service.times == [0, 500]


def test_pauses_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    refusals: list[Answer | Exception] = [TryAgain("HTTP 429", True, 2.0)] * 50
    in_loop(lambda: Run(*refusals, TryAgain("HTTP 429", True, 300.0), ANSWER, max_tries=60), lambda run: run.one())
    assert [record.getMessage().split(" s:")[0] for record in caplog.records] == [
        "nothing is sent for 2.0",
        "nothing is sent for 2.0",
        "nothing is sent for 300.0",
    ]


def test_too_many_requests_pause_all() -> None:
    async def use(run: Run) -> None:
        first = asyncio.ensure_future(run.one())
        await asyncio.sleep(1)
        assert await run.many(3) == [ANSWER] * 3
        assert await first == ANSWER

    run = in_loop(lambda: Run(TryAgain("HTTP 429", True, 3600.0), ANSWER, concurrency=8), use)
    assert run.service.times[0] == 0 and set(run.service.times[1:]) == {3600}
    assert run.pace.pause_seconds == 3600


def test_a_pause_begins_before_anybody_else_sends() -> None:
    run = in_loop(lambda: Run(TryAgain("HTTP 429", True, 60.0), ANSWER, concurrency=1), lambda run: run.many(5))
    assert run.service.times == [0] + [60] * 5


def test_a_burst_of_refusals_is_one_pause() -> None:
    refusals: list[Answer | Exception] = [TryAgain("HTTP 429", True)] * 6
    run = in_loop(lambda: Run(*refusals, ANSWER, seconds=0.1, concurrency=6), lambda run: run.many(6))
    assert run.pace.pause_seconds == 1
    assert run.usage.answers == 6 and len(run.service.sent) == 12


def test_a_service_that_refuses_for_ever() -> None:
    async def use(run: Run) -> None:
        with pytest.raises(RequestFailed, match=r"not answered in 3 tries: HTTP 429 \(3 times\)"):
            await run.one()

    run = in_loop(lambda: Run(TryAgain("HTTP 429", True), max_tries=3), use)
    assert run.service.times == [0, 1, 3]


def test_a_stop_of_the_service_ends_everything_but_requests_in_flight() -> None:
    problem = ServiceStop("wrong key")

    async def use(run: Run) -> None:
        first = [asyncio.ensure_future(run.one()) for _ in range(3)]
        await asyncio.sleep(0.5)
        waiting = asyncio.ensure_future(run.one())  # all three turns are taken
        ended = await asyncio.gather(*first, waiting, return_exceptions=True)
        assert ended[0] is problem
        assert ended[1:3] == [ANSWER, ANSWER]
        assert isinstance(ended[3], NotSent)
        with pytest.raises(NotSent):
            await run.one()

    run = in_loop(lambda: Run(problem, ANSWER, seconds=1.0, concurrency=3), use)
    assert run.sender.problem is problem and run.sender.stopped.is_set()
    assert len(run.service.sent) == 3


def test_the_first_problem_is_kept() -> None:
    problems: list[Answer | Exception] = [ServiceStop("first"), ServiceStop("second")]
    run = in_loop(lambda: Run(*problems, seconds=1.0), lambda run: run.many(2))
    assert str(run.sender.problem) == "first"


def test_stop_ends_the_wait_before_the_next_try() -> None:
    async def use(run: Run) -> None:
        request = asyncio.ensure_future(run.one())
        await asyncio.sleep(10)  # the next try would be at 15
        run.sender.stop()
        with pytest.raises(NotSent):
            await request
        assert asyncio.get_running_loop().time() == 10

    run = in_loop(lambda: Run(busy()), use)
    assert run.sender.problem is None


def budget(max_cost: float) -> Prices:
    return Prices(price_in=2.0, price_out=10.0, max_cost=max_cost)  # 0.003 for each ANSWER


@pytest.mark.parametrize("concurrency", [1, 4, 64])
def test_the_budget_is_not_exceeded(concurrency: int) -> None:
    run = in_loop(
        lambda: Run(ANSWER, seconds=1.0, prices=budget(0.1), concurrency=concurrency), lambda run: run.many(100)
    )
    assert len(run.service.sent) == run.usage.answers == 33
    message = str(run.sender.problem)
    assert "--max_cost 0.1 is reached" in message and "larger --max_cost" in message
    assert run.service.most_in_flight == min(concurrency, 32)


def test_with_a_budget_only_one_request_is_sent_before_there_is_an_answer() -> None:
    run = in_loop(lambda: Run(busy(), ANSWER, seconds=1.0, prices=budget(1.0), concurrency=8), lambda run: run.many(8))
    times = run.service.times
    assert times[0] == 0 and times[1] == 1, "another request while the first one waits for its next try"
    assert times[2:] == [2] * 7


def test_an_answer_that_is_still_being_stored_counts() -> None:
    async def use(run: Run) -> None:
        await run.one()
        for _ in range(3):
            await run.sender.send(lambda: {"number": 0})
        with pytest.raises(ServiceStop):  # the three answers are not counted yet
            await run.sender.send(lambda: {"number": 0})

    run = in_loop(lambda: Run(ANSWER, prices=budget(0.0121)), use)
    assert len(run.service.sent) == 4


def test_a_budget_that_an_interrupted_run_has_used_up() -> None:
    async def use(run: Run) -> None:
        run.usage.spent_before = (500_000, 0)
        with pytest.raises(ServiceStop, match=r"--max_cost 1 is reached: 1\.00 is spent"):
            await run.one()

    assert not in_loop(lambda: Run(ANSWER, prices=budget(1.0)), use).service.sent


def test_a_budget_without_usage() -> None:
    run = in_loop(lambda: Run(NO_USAGE, prices=budget(1.0), concurrency=1), lambda run: run.many(30))
    assert len(run.service.sent) == ESTIMATE_AFTER
    assert "have no usage" in str(run.sender.problem)


def test_used_tokens_correct_the_expected_ones() -> None:
    # 6,100 tokens a minute are 100 a second. The first request is expected to take 1,000, and takes 1,100.
    run = in_loop(lambda: Run(ANSWER, concurrency=1, tokens_per_minute=6100.0), lambda run: run.many(3))
    assert run.service.times == pytest.approx([0, 11, 22])
