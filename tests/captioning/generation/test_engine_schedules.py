"""The engine under random schedules: requests of any length are added and cancelled at any time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from pipeline.captioning.backends import Backend

from .checked_engine import GREEDY, SAMPLINGS, RequestSpec, Setup
from .reference import NEW_TOKENS
from .text_models import VOCABULARY

pytestmark = pytest.mark.model


@dataclass(frozen=True)
class Round:
    """One part of a schedule.

    specs: requests that are added first.
    steps_before: steps until requests are cancelled.
    cancelled: keys of the requests to cancel.
    steps_after: steps until the next round.
    """

    specs: tuple[RequestSpec, ...]
    steps_before: int
    cancelled: tuple[int, ...]
    steps_after: int


@dataclass(frozen=True)
class Schedule:
    slots: int
    check_every: int
    prefill_tokens: int
    with_prefix: bool
    planned_tokens: int
    rounds: tuple[Round, ...]


def _schedule(draw: random.Random, cases: Sequence[int], groups: Sequence[Sequence[int]]) -> Schedule:
    def spec() -> RequestSpec:
        stops = frozenset(draw.randrange(VOCABULARY) for _ in range(draw.choice([0, 0, 3, 8])))
        sampling = draw.choice(SAMPLINGS) if draw.random() < 0.25 else GREEDY
        max_tokens = draw.choice([1, 2, draw.randint(1, NEW_TOKENS), NEW_TOKENS])
        group = draw.choice(groups)
        questions = draw.sample(group, draw.randint(1, len(group))) if draw.random() < 0.4 else [draw.choice(cases)]
        return RequestSpec(
            questions[0], max_tokens, stops, draw.random() < 0.7, sampling, follow_ups=tuple(questions[1:])
        )

    rounds, total = [], 0
    for _ in range(draw.randint(1, 5)):
        specs = tuple(spec() for _ in range(draw.randint(0, 3)))
        total += len(specs)
        # Keys of earlier rounds too, which may have ended, and a key that was never added.
        cancelled = (draw.randint(0, total),) if draw.random() < 0.3 else ()
        rounds.append(Round(specs, draw.randint(0, 2), cancelled, draw.randint(0, 6)))
    return Schedule(
        slots=draw.randint(1, 5),
        check_every=draw.randint(1, 5),
        prefill_tokens=draw.choice([1, 60, 1000]),
        with_prefix=draw.random() < 0.6,
        planned_tokens=draw.choice([1, 4, 1000]),
        rounds=tuple(rounds),
    )


def _follow(setup: Setup, schedule: Schedule) -> None:
    engine = setup.engine(
        schedule.with_prefix,
        slots=schedule.slots,
        check_every=schedule.check_every,
        prefill_tokens=schedule.prefill_tokens,
        planned_tokens=schedule.planned_tokens,
    )
    specs: list[RequestSpec] = []
    cancelled: set[int] = set()
    for current in schedule.rounds:
        for spec in current.specs:
            engine.add(setup.request(len(specs), spec, schedule.with_prefix))
            specs.append(spec)
        for _ in range(current.steps_before):
            engine.step()
        for key in current.cancelled:
            if key < len(specs) and key not in engine.ends:
                cancelled.add(key)
            engine.cancel(key)
        for _ in range(current.steps_after):
            engine.step()
    engine.drain()
    assert engine.ends.keys() == set(range(len(specs))) - cancelled
    for i in set(range(len(specs))) - cancelled:
        setup.check_all(specs[i], engine.answers[i])


@pytest.fixture(scope="module")
def not_on_mindspore(backend: Backend) -> None:
    if backend.framework == "mindspore":
        pytest.skip("too slow on MindSpore; the fixed schedules test the same in less time")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.randoms(use_true_random=False))
def test_any_schedule(not_on_mindspore: None, setup: Setup, draw: random.Random) -> None:
    schedule = _schedule(draw, setup.cases_that(), setup.groups)
    note(str(schedule))
    _follow(setup, schedule)


@pytest.mark.parametrize("seed", range(8))
def test_fixed_schedules(setup: Setup, seed: int) -> None:
    _follow(setup, _schedule(random.Random(seed), setup.cases_that(), setup.groups))
