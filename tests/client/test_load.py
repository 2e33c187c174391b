"""The four ways to send requests: how many are in flight, and when the next ones are sent."""

from __future__ import annotations

import asyncio
import math

import pytest

from pipeline.captioning.captioners.api.errors import RequestFailed, ServiceStop
from pipeline.client.load import MODES, Answers, Load, median, percentile, run


class Server:
    """Answers in rounds: when nothing else happens, the first request in flight ends."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.most = 0
        self.begun_at: dict[int, set[int]] = {}
        """For each request, those that were in flight when it began."""
        self._open: dict[int, asyncio.Event] = {}

    async def ask(self, number: int) -> int:
        self.begun_at[number] = set(self._open)
        self.begun.append(number)
        ended = self._open[number] = asyncio.Event()
        self.most = max(self.most, len(self._open))
        await ended.wait()
        del self._open[number]
        return 10

    async def answer_all(self) -> None:
        while True:
            for _ in range(20):  # until all that can begin has begun
                await asyncio.sleep(0)
            if self._open:
                next(iter(self._open.values())).set()


def _run(mode: str, load: Load) -> tuple[Server, Answers]:
    async def both() -> tuple[Server, Answers]:
        server = Server()
        answering = asyncio.create_task(server.answer_all())
        answers, seconds = await asyncio.wait_for(run(mode, load, server.ask), 30)
        answering.cancel()
        assert seconds > 0
        return server, answers

    return asyncio.run(both())


@pytest.mark.parametrize("mode", MODES)
def test_each_request_is_sent_once_and_no_more_are_in_flight_than_said(mode: str) -> None:
    load = Load(requests=21, batch=4, in_flight=9)
    server, answers = _run(mode, load)
    assert sorted(server.begun) == list(range(21))
    assert server.most == load.most_in_flight(mode) == {"single": 1, "batch": 4, "stream": 9, "batched-stream": 8}[mode]
    assert len(answers.latencies) == 21 and answers.tokens == 210 and not answers.problems


def test_a_batch_begins_when_the_whole_batch_before_it_has_ended() -> None:
    server, _ = _run("batch", Load(requests=8, batch=4, in_flight=1))
    assert server.begun_at[4] == set() and server.begun_at[5] == {4}


def test_in_a_stream_the_next_request_follows_the_first_that_ends() -> None:
    server, _ = _run("stream", Load(requests=8, batch=4, in_flight=4))
    assert server.begun_at[4] == {1, 2, 3}


def test_in_a_stream_of_batches_the_others_are_still_in_flight() -> None:
    server, _ = _run("batched-stream", Load(requests=12, batch=4, in_flight=8))
    assert server.begun_at[8] == {4, 5, 6, 7}


def test_failed_requests_are_counted_and_other_errors_end_all() -> None:
    async def ask(number: int) -> int:
        if number == 2:
            raise RequestFailed("refused")
        return 1

    answers, _ = asyncio.run(run("stream", Load(5, 1, 2), ask))
    assert len(answers.latencies) == 4 and answers.tokens == 4 and answers.problems == ["refused"]

    async def stop(number: int) -> int:
        raise ServiceStop("no quota")

    with pytest.raises(ServiceStop, match="no quota"):
        asyncio.run(run("batched-stream", Load(50, 5, 20), stop))


def test_percentiles() -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], 0.99) == 99
    assert percentile([3.0], 0.99) == 3 and math.isnan(percentile([], 0.99)) and math.isnan(median([]))
