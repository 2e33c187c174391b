"""Engines under test: every call and step is checked, answers are compared with the recorded reference."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.captioning.backends import Backend
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason, Event, Request, Token

from .reference import NEW_TOKENS, PREFIX, TIE, Case
from .text_models import VOCABULARY, build


@dataclass(frozen=True)
class Sampling:
    """How a request is sampled; a temperature of 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stream: int = 0


GREEDY = Sampling()
# A fixed set: a draw that lies within rounding of the border between two tokens is either in it or not.
SAMPLINGS = (Sampling(1.0, 1.0, 0, 1), Sampling(0.7, 0.9, 1, 2), Sampling(1.3, 0.8, 0, 3), Sampling(1.5, 1.0, 2, 1))


@dataclass(frozen=True)
class Ask:
    """A request of one of the reference's cases, cut short by stop ids or after `most` tokens.

    by_prefix: let the engine's shared prefix stand for the first tokens, if the case begins with it.
    """

    case: int
    most: int = NEW_TOKENS
    stops: frozenset[int] = frozenset()
    by_prefix: bool = True
    sampling: Sampling = GREEDY


class Setup:
    """A tiny model on this framework, and what `generate` gives for its cases.

    No dataclass: hypothesis would print all arrays.
    """

    def __init__(self, text_model: Any, backend: Backend, cases: list[Case]) -> None:
        self.text_model, self.backend, self.cases = text_model, backend, cases
        self._answers_alone: dict[Ask, list[int]] = {}

    def cases_that(self, *, are_long: bool = False, have_rules: bool | None = None) -> list[int]:
        return [
            i
            for i, case in enumerate(self.cases)
            if case.is_long == are_long and (have_rules is None or case.has_rules == have_rules)
        ]

    def engine(self, with_prefix: bool = False, **how: int) -> CheckedEngine:
        from pipeline.captioning.generation.engine import EngineSettings, SlotEngine

        first = next(case for case in self.cases if case.prefix)
        prefix = self.upload(first.embeddings[None, :PREFIX]) if with_prefix else None
        engine_settings = EngineSettings(**{"slots": 3, "check_every": 1, "prefill_tokens": 2048, **how})
        engine = SlotEngine(self.text_model, self.backend, engine_settings, prefix=prefix)
        return CheckedEngine(engine, engine_settings.slots, engine_settings.check_every, engine_settings.prefill_tokens)

    def request(self, key: Hashable, ask: Ask, with_prefix: bool = False) -> Request:
        case = self.cases[ask.case]
        skipped = case.prefix if with_prefix and ask.by_prefix else 0
        options = GenerationOptions(
            max_new_tokens=ask.most,
            temperature=ask.sampling.temperature,
            do_sample=ask.sampling.temperature != 0,
            top_p=ask.sampling.top_p,
            seed=ask.sampling.seed,
            repetition_penalty=case.penalty if case.penalty != 1 else None,
            no_repeat_ngram_size=case.ngram_size or None,
        )
        return Request(
            key,
            self.upload(case.embeddings[skipped:]),
            case.positions[..., skipped:].copy(),
            case.next_position,
            options,
            ask.stops,
            has_prefix=skipped > 0,
            history_ids=case.history_ids,
            stream=ask.sampling.stream,
        )

    def upload(self, values: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(values.copy()).to(self.backend.device)

    def check(self, ask: Ask, end: End) -> None:
        """The answer is `generate`'s, or, if sampled, that of the same request alone in an engine of its own."""
        assert (end.reason, end.message) == (EndReason.STOP if end.ids[-1] in ask.stops else EndReason.LENGTH, "")
        if ask.sampling != GREEDY:
            assert end.ids == self._alone(ask), ask
            return
        case = self.cases[ask.case]
        expected = cut(case.tokens, ask)
        for step, (token, wanted) in enumerate(zip(end.ids, expected, strict=False)):
            if token != wanted:
                assert case.margins[step] < TIE, f"{ask}, step {step}: {end.ids} instead of {expected}"
                return
        assert len(end.ids) == len(expected), f"{ask}: {end.ids} instead of {expected}"

    def _alone(self, ask: Ask) -> list[int]:
        if ask not in self._answers_alone:
            engine = self.engine(slots=1)
            engine.add(self.request("alone", ask))
            engine.drain()
            self._answers_alone[ask] = engine.ends["alone"].ids
        return self._answers_alone[ask]


def cut(tokens: Sequence[int], ask: Ask) -> list[int]:
    for step, token in enumerate(tokens[: ask.most]):
        if token in ask.stops:
            return list(tokens[: step + 1])
    assert ask.most <= len(tokens), "the reference ends before"
    return list(tokens[: ask.most])


@dataclass
class CheckedEngine:
    """An engine, with what must hold at every step checked.

    first_steps: the step that brought each request's first token; end_steps: the one that ended it.
    """

    engine: Any
    slots: int
    check_every: int
    prefill_tokens: int
    step_number: int = 0
    ends: dict[Hashable, End] = field(default_factory=dict)
    first_steps: dict[Hashable, int] = field(default_factory=dict)
    end_steps: dict[Hashable, int] = field(default_factory=dict)
    _open: dict[Hashable, Request] = field(default_factory=dict)
    _ids: dict[Hashable, list[int]] = field(default_factory=dict)
    _last_was_prefill: bool = False
    _idle_decodes: int = 0

    def add(self, request: Request) -> None:
        self.engine.add(request)
        self._open[request.key] = request
        self.ends.pop(request.key, None)
        self._check_counts()

    def cancel(self, key: Hashable) -> None:
        assert self.engine.cancel(key) is (key in self._open)
        self._open.pop(key, None)
        self._ids.pop(key, None)
        self._check_counts()

    def drain(self) -> None:
        while self._open:
            self.step()
        assert self.engine.step() == []

    def step(self) -> list[Event]:
        self.step_number += 1
        started, waiting = set(self._ids), [key for key in self._open if key not in self._ids]
        events = self.engine.step()
        assert events or not self._open, "a step without result, although there is work"
        tokens: dict[Hashable, int] = {}
        for event in events:
            assert event.key in self._open, f"{event} of a request that is not there"
            if isinstance(event, Token):
                assert isinstance(event.id, int) and 0 <= event.id < VOCABULARY
                self._ids.setdefault(event.key, []).append(event.id)
                self.first_steps.setdefault(event.key, self.step_number)
                tokens[event.key] = tokens.get(event.key, 0) + 1
            else:
                assert event.ids == self._ids.pop(event.key, [])
                assert event.is_error == bool(event.message)
                self.ends[event.key] = event
                self.end_steps[event.key] = self.step_number
                del self._open[event.key]
        self._check_counts()
        if tokens:
            self._check_work(tokens, started, waiting)
        return events

    def _check_counts(self) -> None:
        assert self.engine.active == len(self._open)
        assert self.engine.free == max(0, self.slots - len(self._open))
        assert self.engine.requests_needed == (0 if self._open else 1)

    def _check_work(self, tokens: dict[Hashable, int], started: set[Hashable], waiting: list[Hashable]) -> None:
        """The step was one prefill or one round of decoding, and the right one of them."""
        if tokens.keys() & started:  # decoding
            assert tokens.keys() <= started, "prefill and decoding in one step"
            assert tokens.keys() >= started & self._open.keys(), "a caption was left out"
            steps = {tokens[key] for key in started & self._open.keys()}
            assert len(steps) <= 1, "captions that go on got different numbers of tokens"
            assert max(tokens.values()) <= self.check_every
            has_room = bool(waiting) and len(started) < self.slots
            self._idle_decodes = self._idle_decodes + 1 if has_room else 0
            assert self._idle_decodes <= 1, "a slot stays free although a request waits"
            self._last_was_prefill = False
        else:
            assert set(tokens.values()) == {1} and len(tokens) <= self.slots - len(started)
            lengths = [self._length(key) for key in tokens]
            assert len(lengths) == 1 or sum(lengths) <= self.prefill_tokens
            # While the first captions of an empty engine have not been decoded, the others may still join them.
            has_decoded = any(len(self._ids.get(key, [])) > 1 for key in started)
            assert not (self._last_was_prefill and has_decoded), "captions stall between two prefills"
            self._last_was_prefill, self._idle_decodes = True, 0
            assert waiting[0] in tokens or waiting[0] in self.ends, "the oldest request still waits"

    def _length(self, key: Hashable) -> int:
        return self._open[key].length if key in self._open else 0


def text_model(name: str, nan_token: int | None = None) -> Any:
    from pipeline.captioning.generation.attention import UNMASKED_ATTENTION
    from pipeline.captioning.generation.text_model import TextModel

    return TextModel.of(build(name, UNMASKED_ATTENTION, nan_token))


def complete(setup: Setup, asks: Mapping[Any, Ask], with_prefix: bool = False, **how: int) -> CheckedEngine:
    """All requests added at once, and their answers checked."""
    engine = setup.engine(with_prefix, **how)
    for key, ask in asks.items():
        engine.add(setup.request(key, ask, with_prefix))
    engine.drain()
    for key, ask in asks.items():
        setup.check(ask, engine.ends[key])
    return engine
