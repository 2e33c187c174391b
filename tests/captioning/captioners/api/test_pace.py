"""The pace of requests, in simulated time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.captioning.captioners.api.errors import NotSent
from pipeline.captioning.captioners.api.options import Limits
from pipeline.captioning.captioners.api.pace import Pace
from pipeline.captioning.captioners.api.retry_after import MAX_WAIT

from .simulated_time import run_simulated


def exact(limits: Limits) -> Pace:
    """A pace whose pauses are not shortened."""
    return Pace(limits, jitter=lambda seconds: seconds)


async def sent_times(pace: Pace, tokens: list[float], seconds: float = 0.0, used: float | None = None) -> list[float]:
    """When each of these requests is sent, if an answer takes `seconds` and `used` tokens (by default as expected)."""
    times: list[float] = [0.0] * len(tokens)

    async def request(number: int) -> None:
        async with pace.turn(tokens[number]):
            times[number] = asyncio.get_running_loop().time()
            await asyncio.sleep(seconds)
            pace.used(tokens[number], tokens[number] if used is None else used)

    await asyncio.gather(*(request(number) for number in range(len(tokens))))
    return times


def most_in_a_minute(times: list[float], units: list[float]) -> float:
    return max(
        sum(unit for other, unit in zip(times, units, strict=True) if start <= other < start + 60) for start in times
    )


def test_at_most_so_many_in_flight_and_first_come_first_served() -> None:
    pace = exact(Limits(concurrency=3))
    assert run_simulated(sent_times(pace, [1.0] * 7, seconds=2.0)) == [0, 0, 0, 2, 2, 2, 4]


@pytest.mark.parametrize("per_minute", [1, 2, 7, 60, 61, 500, 10_000])
def test_requests_per_minute(per_minute: int) -> None:
    count = min(3 * per_minute, 12_000) + 1
    times = run_simulated(sent_times(exact(Limits(concurrency=20_000, requests_per_minute=per_minute)), [1.0] * count))
    assert times == sorted(times)
    if count < 2000:
        assert most_in_a_minute(times, [1.0] * count) <= per_minute
    else:
        assert all(later - first >= 60 for first, later in zip(times, times[per_minute:], strict=False))
    assert times[-1] <= (count - 1) * 61 / per_minute + 1, "the limit is not used"


def test_tokens_per_minute() -> None:
    tokens = [100.0, 300.0, 200.0] * 100
    times = run_simulated(sent_times(exact(Limits(concurrency=1000, tokens_per_minute=12_000)), tokens))
    assert most_in_a_minute(times, tokens) <= 12_000 + 300
    assert times[-1] == pytest.approx(300.0, rel=0.05)  # 60,000 tokens


def test_request_with_more_tokens_than_a_minute_allows() -> None:
    times = run_simulated(sent_times(exact(Limits(tokens_per_minute=600)), [6000.0, 10.0, 10.0]))
    assert times[0] == 0
    assert times[1] == pytest.approx(610, rel=0.05)  # the debt is paid first
    assert times[2] < times[1] + 2


def test_answers_correct_the_expected_tokens() -> None:
    limits = Limits(concurrency=1, tokens_per_minute=6100)  # 100 a second
    as_expected = run_simulated(sent_times(exact(limits), [1000.0] * 11))
    fewer = run_simulated(sent_times(exact(limits), [1000.0] * 11, used=100.0))
    more = run_simulated(sent_times(exact(limits), [1000.0] * 11, used=2000.0))
    assert as_expected[-1] == pytest.approx(100, abs=1)
    assert fewer[-1] == pytest.approx(10, abs=1)
    assert more[-1] == pytest.approx(200, abs=1)


async def refused(pace: Pace, retry_after: float | None = None) -> tuple[float, float]:
    """Send a request that is refused. Returns when it was sent, and the pause that follows."""
    async with pace.turn(1):
        sent_at = asyncio.get_running_loop().time()
        return sent_at, pace.pause(retry_after, sent_at)


async def answered(pace: Pace) -> float:
    """Send a request that is answered at once. Returns when it was sent."""
    async with pace.turn(1):
        pace.used(1, 1)
        return asyncio.get_running_loop().time()


@pytest.mark.parametrize("seconds", [0.25, 3.0, 7200.0])
def test_pause_that_the_service_asks_for(seconds: float) -> None:
    async def main() -> None:
        pace = exact(Limits())
        assert await refused(pace, seconds) == (0, seconds)
        assert await answered(pace) == seconds
        assert pace.pause_seconds == seconds and pace.paused_for == 0

    run_simulated(main())


def test_pauses_grow_until_there_is_an_answer() -> None:
    async def main() -> None:
        pace = exact(Limits())
        pauses = [(await refused(pace))[1] for _ in range(9)]
        assert pauses == [1, 2, 4, 8, 16, 32, MAX_WAIT, MAX_WAIT, MAX_WAIT]
        assert pace.pause_seconds == sum(pauses)
        await answered(pace)
        assert (await refused(pace))[1] == 1

    run_simulated(main())


def test_default_jitter_shortens_pauses_at_most_by_half() -> None:
    async def main() -> None:
        pauses = {(await refused(Pace(Limits())))[1] for _ in range(50)}
        assert len(pauses) > 10 and min(pauses) >= 0.5 and max(pauses) <= 1

    run_simulated(main())


def test_refusals_of_one_burst_are_one_pause() -> None:
    async def main() -> None:
        pace = exact(Limits(concurrency=16))

        async def slow_refusal(seconds: float, retry_after: float | None = None) -> None:
            async with pace.turn(1):
                sent_at = asyncio.get_running_loop().time()
                await asyncio.sleep(seconds)
                pace.pause(retry_after, sent_at)

        # The last one is refused when the pause of the first one, from 1 to 2, is over.
        await asyncio.gather(*(slow_refusal(seconds) for seconds in (1.0, 1.1, 1.5, 1.9, 2.5)))
        assert pace.pause_seconds == 1
        assert (await refused(pace))[1] == 2, "counted as the second pause"

    run_simulated(main())


def test_a_longer_pause_of_the_same_burst_wins() -> None:
    async def main() -> None:
        pace = exact(Limits())
        async with pace.turn(1), pace.turn(1), pace.turn(1):
            assert pace.pause(5.0, 0.0) == 5
            assert pace.pause(30.0, 0.0) == 30
            assert pace.pause(1.0, 0.0) == 30
        assert await answered(pace) == 30
        assert pace.pause_seconds == 30

    run_simulated(main())


def test_fewer_in_flight_after_a_refusal_and_one_more_after_each_answer() -> None:
    async def main() -> None:
        pace = exact(Limits(concurrency=8))
        async with pace.turn(1), pace.turn(1), pace.turn(1), pace.turn(1), pace.turn(1), pace.turn(1):
            pace.pause(1.0)
        times = await sent_times(pace, [1.0] * 24, seconds=1.0)
        in_flight = [times.count(second) for second in (1, 2, 3, 4)]
        assert in_flight == [3, 6, 8, 7]  # half of 6; never more than 8

    run_simulated(main())


def test_never_fewer_than_one_in_flight() -> None:
    async def main() -> None:
        pace = exact(Limits(concurrency=2))
        for _ in range(5):
            await refused(pace)
        assert await answered(pace) > 0

    run_simulated(main())


def test_stop_wakes_those_who_wait_and_spares_those_in_flight() -> None:
    async def main() -> None:
        pace = exact(Limits(concurrency=2))
        ended: list[Any] = []

        async def request() -> None:
            try:
                async with pace.turn(1):
                    await asyncio.sleep(5)
                ended.append("answered")
            except NotSent:
                ended.append(asyncio.get_running_loop().time())

        requests = [asyncio.ensure_future(request()) for _ in range(4)]
        await asyncio.sleep(1)
        pace.stop()
        await asyncio.gather(*requests, request())
        assert ended == [1, 1, 1, "answered", "answered"]
        assert pace.in_flight == 0

    run_simulated(main())


def test_stop_during_a_pause() -> None:
    async def main() -> None:
        pace = exact(Limits())
        await refused(pace, 3600.0)
        waiting = asyncio.ensure_future(answered(pace))
        await asyncio.sleep(1)
        pace.stop()
        with pytest.raises(NotSent):
            await waiting
        assert asyncio.get_running_loop().time() == 1

    run_simulated(main())


def test_stop_between_the_grant_and_the_request() -> None:
    async def main() -> None:
        pace = exact(Limits(concurrency=1))
        turn = pace.turn(1)
        await turn.__aenter__()
        waiting = asyncio.ensure_future(answered(pace))
        await asyncio.sleep(0)
        await turn.__aexit__(None, None, None)  # grants the turn of `waiting`, which has not run yet
        pace.stop()
        with pytest.raises(NotSent):
            await waiting

    run_simulated(main())


def test_an_answer_from_before_the_pause_does_not_make_the_next_one_short() -> None:
    async def main() -> None:
        pace = exact(Limits())
        async with pace.turn(1):
            await refused(pace)
            pace.used(1, 1)
        assert (await refused(pace))[1] == 2

    run_simulated(main())


def test_a_cancelled_request_does_not_hold_up_those_behind_it() -> None:
    async def main() -> None:
        pace = exact(Limits(tokens_per_minute=610))  # 10 a second
        async with pace.turn(10):
            pass
        big = asyncio.ensure_future(sent_times(pace, [1000.0]))
        await asyncio.sleep(0.04)
        small = asyncio.ensure_future(answered(pace))
        await asyncio.sleep(0.04)
        big.cancel()
        assert await small == pytest.approx(0.1, abs=0.01)

    run_simulated(main())


def test_a_request_that_is_cancelled_with_its_turn_gives_it_back() -> None:
    async def main() -> None:
        pace = exact(Limits(concurrency=1))
        turn = pace.turn(1)
        await turn.__aenter__()
        granted = asyncio.ensure_future(answered(pace))
        await asyncio.sleep(0)
        await turn.__aexit__(None, None, None)
        assert pace.in_flight == 1
        granted.cancel()  # it has not run since it has its turn
        await asyncio.gather(granted, return_exceptions=True)
        assert pace.in_flight == 0
        await answered(pace)

    run_simulated(main())
