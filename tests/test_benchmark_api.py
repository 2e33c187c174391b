"""The measurements of `benchmark_api` measure what they say, and its service keeps up with many requests."""

from __future__ import annotations

import asyncio
import csv
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.bare_openai_loop import ready_bodies, send_all
from scripts.benchmark_api import DISTINCT_CLIPS, markdown_tables, run_bare_loop, shortfalls, steady_state, write_table
from scripts.waiting_service import Figures, running


def _rounds(concurrency: int, seconds: list[float]) -> Figures:
    """Requests that begin and end together; the next round begins when one has ended, and takes so many seconds."""
    figures, now = Figures(), 100.0
    for one in seconds:
        figures.arrivals += [now] * concurrency
        now += one
        figures.answers += [now] * concurrency
    return figures


def test_rounds_of_answers_are_counted_whole() -> None:
    figures = _rounds(64, [5.0, 4.0, *[2.1] * 30])
    steady = steady_state(figures, 64)
    # 30 rounds follow the two of the ramp; no request came after the beginning of the last one.
    assert steady.answers == 29 * 64
    assert steady.answers_per_second == pytest.approx(64 / 2.1)


def test_a_slow_end_is_not_part_of_the_steady_state() -> None:
    figures = _rounds(8, [2.0] * 10)
    last_begin = figures.arrivals[-1]
    figures.answers[-8:] = [last_begin + 2 + 10 * number for number in range(8)]
    assert steady_state(figures, 8).answers_per_second == pytest.approx(4.0)


def test_a_run_that_is_too_short_has_no_steady_state() -> None:
    with pytest.raises(ValueError, match="24 answers are too few for a steady state with 8 in flight"):
        steady_state(_rounds(8, [2.0] * 3), 8)


def test_the_bare_loop_keeps_its_requests_in_flight() -> None:
    with running(latency=0.3) as service:
        figures = run_bare_loop(service, requests=96, concurrency=16, body_bytes=60_000)
        assert (figures["requests"], figures["answers"], figures["most_in_flight"]) == (96, 96, 16)
        assert figures["body_bytes"] == pytest.approx(60_000, rel=0.02)
        assert 0 < figures["answers_per_second"] <= 16 / 0.3
        service.reset()
        assert service.figures() == Figures()
    table = markdown_tables({"bare_loop": {**figures, "share_of_ideal": 0.5}})
    assert "| bare loop, 16 in flight | 96 | 60 |" in table


def test_requests_of_a_client_that_leaves_are_not_answered() -> None:
    async def leave(base_url: str) -> None:
        sending = asyncio.create_task(send_all(base_url, list(ready_bodies(4, 1000, "waiting")), 4))
        deadline = time.monotonic() + 60
        while service.figures().in_flight < 4 and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    with running(latency=60) as service:
        asyncio.run(leave(service.base_url))
        deadline = time.monotonic() + 60
        while (figures := service.figures()).in_flight and time.monotonic() < deadline:
            time.sleep(0.05)
    assert (len(figures.arrivals), figures.cancelled, figures.answers) == (4, 4, [])


def test_every_row_asks_another_question_about_few_clips(tmp_path: Path) -> None:
    meta = write_table(tmp_path / "table", 40)
    with meta.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["number"] for row in rows}) == 40
    assert len({row["path"] for row in rows}) == DISTINCT_CLIPS
    assert all(Path(row["path"]).stat().st_size > 1000 for row in rows)


def test_figures_below_their_limits_are_named() -> None:
    good: dict[str, Any] = {
        "start": {"--help": {"seconds": 0.6}},
        "command": {"64": {"share_of_ideal": 0.96}, "256": {"share_of_ideal": 0.5}},
        "share_of_bare_loop": 0.91,
    }
    assert shortfalls(good) == []
    bad = {
        "start": {"--help": {"seconds": 2.5}},
        "command": {"64": {"share_of_ideal": 0.94}},
        "share_of_bare_loop": 0.89,
        "memory": {"peak_memory": 2**30 + 1},
    }
    assert len(shortfalls(bad)) == 4
