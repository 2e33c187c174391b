"""The engine under random schedules: requests of any length come and are cancelled at any time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from pipeline.captioning.backends import Backend

from .checked_engine import GREEDY, SAMPLINGS, Ask, Setup
from .reference import NEW_TOKENS
from .text_models import VOCABULARY

pytestmark = pytest.mark.model


@dataclass(frozen=True)
class Round:
    """Requests that come together, keys that are cancelled after `before` steps, and steps until the next round."""

    asks: tuple[Ask, ...]
    before: int
    cancelled: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Schedule:
    slots: int
    check_every: int
    prefill_tokens: int
    with_prefix: bool
    rounds: tuple[Round, ...]


def _schedule(draw: random.Random, cases: Sequence[int]) -> Schedule:
    def ask() -> Ask:
        stops = frozenset(draw.randrange(VOCABULARY) for _ in range(draw.choice([0, 0, 3, 8])))
        sampling = draw.choice(SAMPLINGS) if draw.random() < 0.25 else GREEDY
        most = draw.choice([1, 2, draw.randint(1, NEW_TOKENS), NEW_TOKENS])
        return Ask(draw.choice(cases), most, stops, draw.random() < 0.7, sampling)

    rounds, total = [], 0
    for _ in range(draw.randint(1, 5)):
        asks = tuple(ask() for _ in range(draw.randint(0, 3)))
        total += len(asks)
        # Keys of the past too, which have ended perhaps, and one that never was.
        cancelled = (draw.randint(0, total),) if draw.random() < 0.3 else ()
        rounds.append(Round(asks, draw.randint(0, 2), cancelled, draw.randint(0, 6)))
    return Schedule(
        slots=draw.randint(1, 5),
        check_every=draw.randint(1, 5),
        prefill_tokens=draw.choice([1, 60, 1000]),
        with_prefix=draw.random() < 0.6,
        rounds=tuple(rounds),
    )


def _follow(setup: Setup, schedule: Schedule) -> None:
    engine = setup.engine(
        schedule.with_prefix,
        slots=schedule.slots,
        check_every=schedule.check_every,
        prefill_tokens=schedule.prefill_tokens,
    )
    asks: list[Ask] = []
    cancelled: set[int] = set()
    for now in schedule.rounds:
        for ask in now.asks:
            engine.add(setup.request(len(asks), ask, schedule.with_prefix))
            asks.append(ask)
        for _ in range(now.before):
            engine.step()
        for key in now.cancelled:
            if key < len(asks) and key not in engine.ends:
                cancelled.add(key)
            engine.cancel(key)
        for _ in range(now.steps):
            engine.step()
    engine.drain()
    assert engine.ends.keys() == set(range(len(asks))) - cancelled
    for i in set(range(len(asks))) - cancelled:
        setup.check(asks[i], engine.ends[i])


@pytest.fixture(scope="module")
def not_on_mindspore(backend: Backend) -> None:
    if backend.framework == "mindspore":
        pytest.skip("takes too long there; the fixed schedules do with less")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.randoms(use_true_random=False))
def test_any_schedule(not_on_mindspore: None, setup: Setup, draw: random.Random) -> None:
    schedule = _schedule(draw, setup.cases_that())
    note(str(schedule))
    _follow(setup, schedule)


@pytest.mark.parametrize("seed", range(8))
def test_fixed_schedules(setup: Setup, seed: int) -> None:
    _follow(setup, _schedule(random.Random(seed), setup.cases_that()))
