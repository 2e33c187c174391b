"""The engine against transformers' own `generate`, prompt by prompt, on the framework of this process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import EndReason, Request, Token

from .checked_engine import GREEDY, SAMPLINGS, Ask, Sampling, Setup, complete, text_model
from .reference import LONG_ANSWER, NEW_TOKENS
from .text_models import MAX_POSITIONS, VOCABULARY

pytestmark = pytest.mark.model


def test_penalties_and_ngram_rules_are_those_of_transformers(setup: Setup, with_prefix: bool) -> None:
    """Requests with and without rules in one batch; `generate` counts the prompt's ids for some."""
    rules, none = setup.cases_that(have_rules=True), setup.cases_that(have_rules=False)
    assert len({(setup.cases[i].penalty, setup.cases[i].ngram_size) for i in rules}) > 6
    cases = [case for pair in zip(rules, none, strict=False) for case in pair] + rules[len(none) :]
    complete(setup, {case: Ask(case) for case in cases}, with_prefix, slots=5, check_every=2)


def test_stop_ids_and_lengths_are_each_request_s_own(setup: Setup) -> None:
    case = setup.cases_that(have_rules=False)[0]
    tokens = setup.cases[case].tokens
    asks = {(most, stop): Ask(case, most, frozenset({stop})) for most in (1, 2, 11) for stop in tokens[:12:3]}
    engine = complete(setup, asks, slots=4)
    lengths = [len(end.ids) for end in engine.ends.values()]
    assert {1, 2, 4, 7, 10} <= set(lengths)
    assert {end.reason for end in engine.ends.values()} == {EndReason.STOP, EndReason.LENGTH}


def test_seed_and_stream_fix_what_is_sampled(llama: Setup) -> None:
    case = llama.cases_that(have_rules=False)[0]
    ways = [(0, 0), (0, 1), (1, 0), (0, 0)]
    asks = {i: Ask(case, sampling=Sampling(1.0, 0.95, seed, stream)) for i, (seed, stream) in enumerate(ways)}
    ends = complete(llama, {**asks, 4: Ask(case)}, slots=5).ends
    assert ends[0].ids == ends[3].ids
    assert len({tuple(end.ids) for end in ends.values()}) == 4


def test_ways_to_sample_do_not_disturb_each_other(llama: Setup) -> None:
    asks = [Ask(case, 8, sampling=way) for case in llama.cases_that()[:2] for way in (*SAMPLINGS, GREEDY)]
    complete(llama, dict(enumerate(asks)), slots=5, check_every=3)


def test_one_prefill_fills_slots_that_lie_apart(setup: Setup) -> None:
    def length(case: int) -> int:
        return len(setup.cases[case].embeddings)

    cases = sorted(setup.cases_that(), key=length)
    groups = [cases[i : i + 3] for i in range(len(cases) - 2)]
    first, middle, last = next(group for group in groups if length(group[2]) <= 1.2 * length(group[0]))
    asks = [Ask(first, 3), Ask(middle), Ask(last, 3), Ask(first), Ask(last)]
    engine = setup.engine()
    for i, ask in enumerate(asks):
        if i == 3:
            engine.step()
        engine.add(setup.request(i, ask))
    engine.drain()
    for i, ask in enumerate(asks):
        setup.check(ask, engine.ends[i])
    assert [engine.first_steps[i] for i in range(5)] == [1, 1, 1, 4, 4]


def test_prefills_do_not_stall_captions(setup: Setup) -> None:
    """A caption in flight gets tokens between any two prefills, however many requests have come."""
    cases = setup.cases_that(have_rules=False)
    engine = setup.engine(slots=5, prefill_tokens=1)
    active, tokens_at = Ask(cases[0]), []
    engine.add(setup.request("active", active))
    engine.step()
    engine.step()
    later = {case: Ask(case, 6) for case in cases[1:7]}
    for key, ask in later.items():
        engine.add(setup.request(key, ask))
    while "active" not in engine.ends:
        if any(event.key == "active" and isinstance(event, Token) for event in engine.step()):
            tokens_at.append(engine.step_number)
    engine.drain()
    setup.check(active, engine.ends["active"])
    for key, ask in later.items():
        setup.check(ask, engine.ends[key])
    prefills = sorted({engine.first_steps[key] for key in later})
    assert len(prefills) == len(later), "one prompt a prefill was asked for"
    for begin, end in itertools.pairwise(prefills):
        assert end > engine.end_steps["active"] or any(begin < step < end for step in tokens_at)
    assert prefills[3] == prefills[0] + 6, "free slots are filled as fast as that allows"


def test_an_empty_engine_is_filled_by_one_prefill_after_the_other(llama: Setup) -> None:
    asks = {case: Ask(case, 5) for case in llama.cases_that(have_rules=False)[:4]}
    engine = complete(llama, asks, slots=4, prefill_tokens=1)
    assert sorted(engine.first_steps.values()) == [1, 2, 3, 4]
    engine = complete(llama, asks, slots=4, prefill_tokens=10**6)
    assert set(engine.end_steps.values()) == set(range(min(engine.end_steps.values()), engine.step_number + 1))
    assert max(engine.first_steps.values()) < 4, "prompts of similar length are prefilled together"


def test_a_short_caption_gives_its_slot_to_the_next_request(setup: Setup) -> None:
    """The captions that follow do not wait for a long one that began before."""
    cases = setup.cases_that(have_rules=False)
    asks: dict[Any, Ask] = {"long": Ask(cases[0]), **{case: Ask(case, 3) for case in cases[1:6]}}
    engine = complete(setup, asks, slots=2)
    order = sorted(cases[1:6], key=lambda case: engine.first_steps[case])
    assert engine.end_steps[order[-1]] < engine.end_steps["long"]
    for before, after in itertools.pairwise(order):
        assert 0 < engine.first_steps[after] - engine.end_steps[before] <= 2


def test_the_cache_grows_and_shrinks_in_flight(setup: Setup, with_prefix: bool) -> None:
    plain = setup.cases_that(have_rules=False)
    short_prompt, middle_prompt, long_prompt = setup.cases_that(are_long=True)
    engine = setup.engine(with_prefix, slots=4)
    asks: dict[int, Ask] = {}

    def add(case: int, most: int) -> None:
        key = len(asks)
        asks[key] = Ask(case, most)
        engine.add(setup.request(key, asks[key], with_prefix))

    def steps(count: int) -> None:
        for _ in range(count):
            engine.step()

    for i in range(8):  # many times the columns that answers of 6 tokens need
        add(plain[i], 6)
        steps(3)
    add(plain[8], NEW_TOKENS)  # a longer answer while others are in flight
    add(plain[9], 6)
    steps(6)
    add(long_prompt, LONG_ANSWER)
    steps(5)
    add(plain[10], NEW_TOKENS)
    steps(NEW_TOKENS + 2)  # at last the long one alone, for long
    add(short_prompt, LONG_ANSWER)  # a ring that both need, at different times
    for i in range(6):  # and all slots again
        add(plain[i], 7 + i)
        steps(4)
    engine.drain()
    add(middle_prompt, 2)  # after everything has ended
    add(plain[0], NEW_TOKENS)
    engine.drain()
    for case, most in ((plain[1], 3), (short_prompt, LONG_ANSWER), (plain[2], 3), (middle_prompt, LONG_ANSWER)):
        add(case, most)
    steps(LONG_ANSWER // 2)  # two long ones, not in the first slots, and all slots again
    for i in range(5):
        add(plain[i], NEW_TOKENS)
    engine.drain()
    for key, ask in asks.items():
        setup.check(ask, engine.ends[key])


def test_what_does_not_fit_the_model_fails_alone(setup: Setup, with_prefix: bool) -> None:
    plain, long_prompt = setup.cases_that(have_rules=False), setup.cases_that(are_long=True)[-1]
    assert len(setup.cases[long_prompt].embeddings) + LONG_ANSWER == MAX_POSITIONS
    by_prefix = next(i for i in plain if setup.cases[i].prefix)
    case = setup.cases[by_prefix]
    room, stops = MAX_POSITIONS - len(case.embeddings), frozenset({case.tokens[4]})
    good = {
        "exact": Ask(long_prompt, LONG_ANSWER),
        "exact by prefix": Ask(by_prefix, room, stops),
        "plain": Ask(plain[0]),
    }
    bad = {
        "one more": Ask(long_prompt, LONG_ANSWER + 1),
        "one more by prefix": Ask(by_prefix, room + 1, stops),
        "far too long": Ask(plain[1], 10**9),
    }
    engine = setup.engine(with_prefix, slots=2)
    engine.add(setup.request("first", Ask(plain[2]), with_prefix))
    engine.step()
    for pair in zip(bad.items(), good.items(), strict=True):
        for key, ask in pair:
            engine.add(setup.request(key, ask, with_prefix))
    engine.drain()
    for key, ask in {"first": Ask(plain[2]), **good}.items():
        setup.check(ask, engine.ends[key])
    for key in bad:
        end = engine.ends[key]
        assert (end.reason, end.ids) == (EndReason.TOO_LONG, [])
        assert "--max_new_tokens" in end.message and str(MAX_POSITIONS) in end.message


def _not_a_number(setup: Setup, key: Hashable, case: int) -> Request:
    request = setup.request(key, Ask(case))
    request.embeddings[:] = math.nan
    return request


@pytest.mark.parametrize("slots", [1, 3])
def test_a_prompt_that_is_not_a_number_fails_alone(setup: Setup, slots: int) -> None:
    """And what it leaves in a slot does not reach the next request there."""
    cases = setup.cases_that(have_rules=False)
    good = {f"good {i}": Ask(cases[i]) for i in range(5)}
    engine = setup.engine(slots=slots)
    for i, (key, ask) in enumerate(good.items()):
        if i % 2:
            engine.add(_not_a_number(setup, f"bad {i}", cases[5 + i]))
        engine.add(setup.request(key, ask))
    engine.drain()
    for key, ask in good.items():
        setup.check(ask, engine.ends[key])
    for i in (1, 3):
        end = engine.ends[f"bad {i}"]
        assert (end.reason, end.ids) == (EndReason.NOT_A_NUMBER, [])


@pytest.mark.parametrize(("slots", "check_every"), [(1, 1), (3, 4)])
def test_an_answer_that_is_not_a_number_any_more_fails_alone(llama: Setup, slots: int, check_every: int) -> None:
    """A token whose embedding is not a number comes up in some answers and not in others."""
    cases = llama.cases_that(have_rules=False)[:9]
    answers = {case: llama.cases[case].tokens[:-1] for case in cases}  # the last one is not fed to the model
    token = max(range(VOCABULARY), key=lambda t: sum(t in answer for answer in answers.values()) == len(cases) // 2)
    setup = Setup(text_model("llama", nan_token=token), llama.backend, llama.cases)
    bad = [case for case in cases if token in answers[case]]
    assert 2 < len(bad) < len(cases) - 2, "the reference has no such token"
    engine = setup.engine(slots=slots, check_every=check_every)
    for case in cases:
        engine.add(setup.request(case, Ask(case)))
    engine.drain()
    for case in cases:
        end = engine.ends[case]
        if case not in bad:
            setup.check(Ask(case), end)
            continue
        assert end.reason is EndReason.NOT_A_NUMBER
        until = answers[case].index(token) + 1
        assert end.ids == answers[case][:until]


def test_keys_are_unique_as_long_as_they_are_there(llama: Setup) -> None:
    cases = llama.cases_that(have_rules=False)
    engine = llama.engine(slots=1)
    assert engine.step() == []
    engine.cancel("never there")
    engine.add(llama.request("active", Ask(cases[0])))
    engine.add(llama.request("waiting", Ask(cases[1], 3)))
    engine.step()
    for key in ("active", "waiting"):
        with pytest.raises(ValueError, match=key):
            engine.engine.add(llama.request(key, Ask(cases[2])))
    engine.cancel("active")
    engine.add(llama.request("active", Ask(cases[3], 5)))
    engine.drain()
    llama.check(Ask(cases[1], 3), engine.ends["waiting"])
    llama.check(Ask(cases[3], 5), engine.ends["active"])
    engine.add(llama.request("active", Ask(cases[4], 7)))
    engine.drain()
    llama.check(Ask(cases[4], 7), engine.ends["active"])
    engine.cancel("active")


def test_requests_that_end_at_once_do_not_stall_a_caption(llama: Setup) -> None:
    """Answers of one token need no decoding: prefills could follow each other for ever."""
    cases = llama.cases_that(have_rules=False)
    asks: dict[Any, Ask] = {"long": Ask(cases[0], 5), **{i: Ask(cases[1], 1) for i in range(20)}}
    engine = complete(llama, asks, slots=2, prefill_tokens=1)
    assert engine.end_steps["long"] < engine.first_steps[10]


def test_a_cache_that_changes_at_every_prefill(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prefill makes the room as small as it can be, with captions in flight."""
    from pipeline.captioning.generation import engine

    monkeypatch.setattr(engine, "_MAX_OVERSIZE", 0)
    asks = {case: Ask(case) for case in [*setup.cases_that()[:6], setup.cases_that(are_long=True)[-1]]}
    complete(setup, dict(reversed(asks.items())), with_prefix=True, slots=3, check_every=2, prefill_tokens=1)


def test_a_sliding_window_bounds_the_sequence(llama: Setup) -> None:
    """Attention without masks knows no window: what goes beyond one is refused."""
    from transformers import MistralConfig, Qwen2Config

    from pipeline.captioning.generation.text_model import TextModel

    def longest(config: Any) -> int:
        return TextModel(llama.text_model.decoder, llama.text_model.head, config).max_positions

    assert longest(MistralConfig(max_position_embeddings=100, sliding_window=40)) == 40
    assert longest(MistralConfig(max_position_embeddings=100, sliding_window=None)) == 100
    sizes = {"num_hidden_layers": 4, "max_position_embeddings": 100, "sliding_window": 40}
    assert longest(Qwen2Config(**sizes)) == 100
    assert longest(Qwen2Config(**sizes, use_sliding_window=True, max_window_layers=2)) == 40


def test_beams_are_for_another_engine(llama: Setup) -> None:
    request = llama.request("beams", Ask(llama.cases_that()[0]))
    with pytest.raises(ValueError, match="BatchEngine"):
        llama.engine().engine.add(replace(request, options=GenerationOptions(num_beams=2)))
