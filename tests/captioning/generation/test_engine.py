"""The engine gives the same answers as transformers' `generate`, for each prompt, on the framework of this process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import EndReason, Request, Token

from .checked_engine import GREEDY, SAMPLINGS, RequestSpec, Sampling, Setup, complete, text_model
from .reference import LONG_ANSWER, NEW_TOKENS
from .text_models import MAX_POSITIONS, VOCABULARY

pytestmark = pytest.mark.model


def test_penalties_and_ngram_rules_are_those_of_transformers(setup: Setup, with_prefix: bool) -> None:
    """Requests with and without rules in one batch; for some of them the rules apply to the prompt's ids."""
    rules, none = setup.cases_that(have_rules=True), setup.cases_that(have_rules=False)
    assert len({(setup.cases[i].penalty, setup.cases[i].ngram_size) for i in rules}) > 6
    cases = [case for pair in zip(rules, none, strict=False) for case in pair] + rules[len(none) :]
    complete(setup, {case: RequestSpec(case) for case in cases}, with_prefix, slots=5, check_every=2)


def test_each_request_has_its_own_stop_ids_and_length(setup: Setup) -> None:
    case = setup.cases_that(have_rules=False)[0]
    tokens = setup.cases[case].tokens
    specs = {
        (max_tokens, stop): RequestSpec(case, max_tokens, frozenset({stop}))
        for max_tokens in (1, 2, 11)
        for stop in tokens[:12:3]
    }
    engine = complete(setup, specs, slots=4)
    lengths = [len(end.ids) for end in engine.ends.values()]
    assert {1, 2, 4, 7, 10} <= set(lengths)
    assert {end.reason for end in engine.ends.values()} == {EndReason.STOP, EndReason.LENGTH}


def test_seed_and_stream_determine_the_sample(llama: Setup) -> None:
    case = llama.cases_that(have_rules=False)[0]
    streams = [(0, 0), (0, 1), (1, 0), (0, 0)]
    specs = {
        i: RequestSpec(case, sampling=Sampling(1.0, 0.95, seed, stream)) for i, (seed, stream) in enumerate(streams)
    }
    ends = complete(llama, {**specs, 4: RequestSpec(case)}, slots=5).ends
    assert ends[0].ids == ends[3].ids
    assert len({tuple(end.ids) for end in ends.values()}) == 4


def test_requests_with_different_sampling_options_are_independent(llama: Setup) -> None:
    specs = [RequestSpec(case, 8, sampling=way) for case in llama.cases_that()[:2] for way in (*SAMPLINGS, GREEDY)]
    complete(llama, dict(enumerate(specs)), slots=5, check_every=3)


def test_one_prefill_fills_slots_that_are_not_adjacent(setup: Setup) -> None:
    def length(case: int) -> int:
        return len(setup.cases[case].embeddings)

    cases = sorted(setup.cases_that(), key=length)
    groups = [cases[i : i + 3] for i in range(len(cases) - 2)]
    first, middle, last = next(group for group in groups if length(group[2]) <= 1.2 * length(group[0]))
    specs = [RequestSpec(first, 3), RequestSpec(middle), RequestSpec(last, 3), RequestSpec(first), RequestSpec(last)]
    engine = setup.engine()
    for i, spec in enumerate(specs):
        if i == 3:
            engine.step()
        engine.add(setup.request(i, spec))
    engine.drain()
    for i, spec in enumerate(specs):
        setup.check(spec, engine.ends[i])
    assert [engine.first_steps[i] for i in range(5)] == [1, 1, 1, 4, 4]


def test_prefills_do_not_delay_active_answers(setup: Setup) -> None:
    """An active answer gets tokens between any two prefills, even if many requests wait."""
    cases = setup.cases_that(have_rules=False)
    engine = setup.engine(slots=5, prefill_tokens=1)
    active, tokens_at = RequestSpec(cases[0]), []
    engine.add(setup.request("active", active))
    engine.step()
    engine.step()
    later = {case: RequestSpec(case, 6) for case in cases[1:7]}
    for key, spec in later.items():
        engine.add(setup.request(key, spec))
    while "active" not in engine.ends:
        if any(event.key == "active" and isinstance(event, Token) for event in engine.step()):
            tokens_at.append(engine.step_number)
    engine.drain()
    setup.check(active, engine.ends["active"])
    for key, spec in later.items():
        setup.check(spec, engine.ends[key])
    prefills = sorted({engine.first_steps[key] for key in later})
    assert len(prefills) == len(later), "the settings allow one prompt in a prefill"
    for begin, end in itertools.pairwise(prefills):
        assert end > engine.end_steps["active"] or any(begin < step < end for step in tokens_at)
    assert prefills[3] == prefills[0] + 6, "free slots are not filled in every second step"


def test_an_empty_engine_is_filled_by_consecutive_prefills(llama: Setup) -> None:
    specs = {case: RequestSpec(case, 5) for case in llama.cases_that(have_rules=False)[:4]}
    engine = complete(llama, specs, slots=4, prefill_tokens=1)
    assert sorted(engine.first_steps.values()) == [1, 2, 3, 4]
    engine = complete(llama, specs, slots=4, prefill_tokens=10**6)
    assert set(engine.end_steps.values()) == set(range(min(engine.end_steps.values()), engine.step_number + 1))
    assert max(engine.first_steps.values()) < 4, "prompts of similar length are prefilled together"


def test_the_slot_of_a_short_answer_is_used_by_the_next_request(setup: Setup) -> None:
    """The next requests do not wait for a long answer that began earlier."""
    cases = setup.cases_that(have_rules=False)
    specs: dict[Any, RequestSpec] = {
        "long": RequestSpec(cases[0]),
        **{case: RequestSpec(case, 3) for case in cases[1:6]},
    }
    engine = complete(setup, specs, slots=2)
    order = sorted(cases[1:6], key=lambda case: engine.first_steps[case])
    assert engine.end_steps[order[-1]] < engine.end_steps["long"]
    for before, after in itertools.pairwise(order):
        assert 0 < engine.first_steps[after] - engine.end_steps[before] <= 2


def test_the_cache_grows_and_shrinks_with_requests_in_flight(setup: Setup, with_prefix: bool) -> None:
    plain = setup.cases_that(have_rules=False)
    short_prompt, middle_prompt, long_prompt = setup.cases_that(are_long=True)
    engine = setup.engine(with_prefix, slots=4)
    specs: dict[int, RequestSpec] = {}

    def add(case: int, max_tokens: int) -> None:
        key = len(specs)
        specs[key] = RequestSpec(case, max_tokens)
        engine.add(setup.request(key, specs[key], with_prefix))

    def steps(count: int) -> None:
        for _ in range(count):
            engine.step()

    for i in range(8):  # together many times the columns that an answer of 6 tokens needs
        add(plain[i], 6)
        steps(3)
    add(plain[8], NEW_TOKENS)  # a longer answer while others are in flight
    add(plain[9], 6)
    steps(6)
    add(long_prompt, LONG_ANSWER)
    steps(5)
    add(plain[10], NEW_TOKENS)
    steps(NEW_TOKENS + 2)  # after the others have ended, the long answer is the only one for many steps
    add(short_prompt, LONG_ANSWER)  # both long answers use the whole ring buffer, at different times
    for i in range(6):  # all slots are needed again
        add(plain[i], 7 + i)
        steps(4)
    engine.drain()
    add(middle_prompt, 2)  # after all answers have ended
    add(plain[0], NEW_TOKENS)
    engine.drain()
    for case, max_tokens in ((plain[1], 3), (short_prompt, LONG_ANSWER), (plain[2], 3), (middle_prompt, LONG_ANSWER)):
        add(case, max_tokens)
    steps(LONG_ANSWER // 2)  # two long answers remain, not in the first slots; then all slots are needed again
    for i in range(5):
        add(plain[i], NEW_TOKENS)
    engine.drain()
    for key, spec in specs.items():
        setup.check(spec, engine.ends[key])


@pytest.mark.parametrize("is_cancelled", [True, False])
@pytest.mark.parametrize("planned_tokens", [4, 1000])
def test_one_long_answer_does_not_slow_down_the_short_ones_after_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, planned_tokens: int, is_cancelled: bool
) -> None:
    """The ring buffer, which every step reads, becomes small again although the engine is never idle."""
    from pipeline.captioning.generation import slot_table

    monkeypatch.setattr(slot_table, "_SHRINK_AFTER", 3)
    monkeypatch.setattr(slot_table, "COLUMN_MULTIPLE", 1)
    plain, long_case = setup.cases_that(have_rules=False), setup.cases_that(are_long=True)[0]
    engine = setup.engine(slots=3, planned_tokens=planned_tokens)
    specs: dict[Hashable, RequestSpec] = {"long": RequestSpec(long_case, LONG_ANSWER)}
    engine.add(setup.request("long", specs["long"]))
    sizes = []

    def steps(count: int) -> None:
        for _ in range(count):
            while engine.engine.free:
                key = len(specs)
                specs[key] = RequestSpec(plain[key % len(plain)], 3 + key % 3)
                engine.add(setup.request(key, specs[key]))
            engine.step()
            sizes.append(engine.engine._table.cache.shape.ring)

    steps(8)
    if is_cancelled:
        engine.cancel("long")
    else:
        while "long" not in engine.ends:
            steps(1)
    assert max(sizes) > 4
    steps(20)
    assert sizes[-1] <= 16, "at most four times what answers of 5 tokens need"
    late = RequestSpec(long_case, LONG_ANSWER // 2)  # it grows again
    engine.add(setup.request("late", late))
    steps(5)
    engine.drain()
    specs["late"] = late
    assert specs.keys() - engine.ends.keys() == ({"long"} if is_cancelled else set())
    for key, end in engine.ends.items():
        setup.check(specs[key], end)


def test_a_long_answer_gets_columns_when_it_becomes_long(llama: Setup) -> None:
    """A request may end long before its largest number of tokens; until then the steps of all would be slow."""
    case = llama.cases_that(are_long=True)[0]
    engine = llama.engine(planned_tokens=4)
    spec = RequestSpec(case, LONG_ANSWER)
    engine.add(llama.request("long", spec))
    sizes = []
    while "long" not in engine.ends:
        engine.step()
        sizes.append(engine.engine._table.cache.shape.ring)
    llama.check(spec, engine.ends["long"])
    assert sizes[0] == 3 and sizes[-1] == LONG_ANSWER - 1
    assert all(size <= max(3, 2 * step) for step, size in enumerate(sizes)), sizes
    assert len(set(sizes)) <= 2 + math.log2(LONG_ANSWER), "few copies"


@pytest.mark.parametrize("max_tokens", [1, NEW_TOKENS])
def test_answers_of_the_planned_length_never_change_the_cache(
    llama: Setup, monkeypatch: pytest.MonkeyPatch, max_tokens: int
) -> None:
    from pipeline.captioning.generation.kv_cache import SlotCache

    def no_resize(*_: object) -> None:
        raise AssertionError("a copy of the whole cache")

    monkeypatch.setattr(SlotCache, "resize", no_resize)
    monkeypatch.setattr("pipeline.captioning.generation.slot_table._SHRINK_AFTER", 10**6)  # at the end of the run
    cases = sorted(llama.cases_that(have_rules=False), key=lambda case: -len(llama.cases[case].embeddings))
    specs = {case: RequestSpec(case, max_tokens) for case in cases[:9]}
    complete(llama, specs, slots=3, check_every=2, planned_tokens=NEW_TOKENS)


def test_only_requests_that_are_too_long_for_the_model_fail(setup: Setup, with_prefix: bool) -> None:
    plain, long_prompt = setup.cases_that(have_rules=False), setup.cases_that(are_long=True)[-1]
    assert len(setup.cases[long_prompt].embeddings) + LONG_ANSWER == MAX_POSITIONS
    prefix_case = next(i for i in plain if setup.cases[i].prefix)
    case = setup.cases[prefix_case]
    longest, stops = MAX_POSITIONS - len(case.embeddings), frozenset({case.tokens[4]})
    good = {
        "exact": RequestSpec(long_prompt, LONG_ANSWER),
        "exact with prefix": RequestSpec(prefix_case, longest, stops),
        "plain": RequestSpec(plain[0]),
    }
    bad = {
        "one more": RequestSpec(long_prompt, LONG_ANSWER + 1),
        "one more with prefix": RequestSpec(prefix_case, longest + 1, stops),
        "far too long": RequestSpec(plain[1], 10**9),
    }
    engine = setup.engine(with_prefix, slots=2)
    engine.add(setup.request("first", RequestSpec(plain[2]), with_prefix))
    engine.step()
    for pair in zip(bad.items(), good.items(), strict=True):
        for key, spec in pair:
            engine.add(setup.request(key, spec, with_prefix))
    engine.drain()
    for key, spec in {"first": RequestSpec(plain[2]), **good}.items():
        setup.check(spec, engine.ends[key])
    for key in bad:
        end = engine.ends[key]
        assert (end.reason, end.ids) == (EndReason.TOO_LONG, [])
        assert f"the model was made for {MAX_POSITIONS}" in end.message and "--" not in end.message


def _nan_request(setup: Setup, key: Hashable, case: int) -> Request:
    request = setup.request(key, RequestSpec(case))
    request.embeddings[:] = math.nan
    return request


@pytest.mark.parametrize("slots", [1, 3])
def test_only_a_prompt_of_nan_fails(setup: Setup, slots: int) -> None:
    """The NaN values that it leaves in its slot do not affect the next request there."""
    cases = setup.cases_that(have_rules=False)
    good = {f"good {i}": RequestSpec(cases[i]) for i in range(5)}
    engine = setup.engine(slots=slots)
    for i, (key, spec) in enumerate(good.items()):
        if i % 2:
            engine.add(_nan_request(setup, f"bad {i}", cases[5 + i]))
        engine.add(setup.request(key, spec))
    engine.drain()
    for key, spec in good.items():
        setup.check(spec, engine.ends[key])
    for i in (1, 3):
        end = engine.ends[f"bad {i}"]
        assert (end.reason, end.ids) == (EndReason.NOT_A_NUMBER, [])


@pytest.mark.parametrize(("slots", "check_every"), [(1, 1), (3, 4)])
def test_only_answers_that_become_nan_fail(llama: Setup, slots: int, check_every: int) -> None:
    """The embedding of one token is NaN; some answers contain this token."""
    cases = llama.cases_that(have_rules=False)[:9]
    answers = {case: llama.cases[case].tokens[:-1] for case in cases}  # the last one is not fed to the model
    token = max(range(VOCABULARY), key=lambda t: sum(t in answer for answer in answers.values()) == len(cases) // 2)
    setup = Setup(text_model("llama", nan_token=token), llama.backend, llama.cases)
    bad = [case for case in cases if token in answers[case]]
    assert 2 < len(bad) < len(cases) - 2, "the reference has no suitable token"
    engine = setup.engine(slots=slots, check_every=check_every)
    for case in cases:
        engine.add(setup.request(case, RequestSpec(case)))
    engine.drain()
    for case in cases:
        end = engine.ends[case]
        if case not in bad:
            setup.check(RequestSpec(case), end)
            continue
        assert end.reason is EndReason.NOT_A_NUMBER
        until = answers[case].index(token) + 1
        assert end.ids == answers[case][:until]


def test_keys_are_unique_among_current_requests(llama: Setup) -> None:
    cases = llama.cases_that(have_rules=False)
    engine = llama.engine(slots=1)
    assert engine.step() == []
    engine.cancel("never added")
    engine.add(llama.request("active", RequestSpec(cases[0])))
    engine.add(llama.request("waiting", RequestSpec(cases[1], 3)))
    engine.step()
    for key in ("active", "waiting"):
        with pytest.raises(ValueError, match=key):
            engine.engine.add(llama.request(key, RequestSpec(cases[2])))
    engine.cancel("active")
    engine.add(llama.request("active", RequestSpec(cases[3], 5)))
    engine.drain()
    llama.check(RequestSpec(cases[1], 3), engine.ends["waiting"])
    llama.check(RequestSpec(cases[3], 5), engine.ends["active"])
    engine.add(llama.request("active", RequestSpec(cases[4], 7)))
    engine.drain()
    llama.check(RequestSpec(cases[4], 7), engine.ends["active"])
    engine.cancel("active")


def test_answers_of_one_token_do_not_delay_an_active_answer(llama: Setup) -> None:
    """Answers of one token end in their prefill, so prefills could follow each other without decoding steps."""
    cases = llama.cases_that(have_rules=False)
    specs: dict[Any, RequestSpec] = {
        "long": RequestSpec(cases[0], 5),
        **{i: RequestSpec(cases[1], 1) for i in range(20)},
    }
    engine = complete(llama, specs, slots=2, prefill_tokens=1)
    assert engine.end_steps["long"] < engine.first_steps[10]


def test_a_cache_that_is_resized_at_every_prefill(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt columns and ring buffer are reduced to the minimum all the time, with answers in flight."""
    from pipeline.captioning.generation import slot_table

    monkeypatch.setattr(slot_table, "_MAX_OVERSIZE", 0)
    monkeypatch.setattr(slot_table, "_SHRINK_AFTER", 1)
    specs = {case: RequestSpec(case) for case in [*setup.cases_that()[:6], setup.cases_that(are_long=True)[-1]]}
    settings = {"slots": 3, "check_every": 2, "prefill_tokens": 1, "planned_tokens": 4}
    complete(setup, dict(reversed(specs.items())), with_prefix=True, **settings)


def test_beam_search_is_rejected(llama: Setup) -> None:
    request = llama.request("beams", RequestSpec(llama.cases_that()[0]))
    with pytest.raises(ValueError, match="BatchEngine"):
        llama.engine().engine.add(replace(request, options=GenerationOptions(num_beams=2)))
