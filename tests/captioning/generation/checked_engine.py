"""An engine under test: checks every call and step, and compares answers with the reference."""

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
    """Sampling options of a request; temperature 0 means greedy decoding."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stream: int = 0


GREEDY = Sampling()
# A fixed set, so that no random test run meets a draw so close to the border of two tokens that rounding decides.
SAMPLINGS = (Sampling(1.0, 1.0, 0, 1), Sampling(0.7, 0.9, 1, 2), Sampling(1.3, 0.8, 0, 3), Sampling(1.5, 1.0, 2, 1))


@dataclass(frozen=True)
class RequestSpec:
    """A request for one of the reference's cases, with its own stop ids and length.

    case: index of the case.
    max_tokens: maximum number of new tokens.
    stops: stop ids.
    use_prefix: use the engine's shared prefix in place of the first tokens, if the case begins with it.
    """

    case: int
    max_tokens: int = NEW_TOKENS
    stops: frozenset[int] = frozenset()
    use_prefix: bool = True
    sampling: Sampling = GREEDY


class Setup:
    """A tiny model on this framework, and the reference's cases for it.

    Not a dataclass, because hypothesis would print all arrays.
    """

    def __init__(self, text_model: Any, backend: Backend, cases: list[Case]) -> None:
        self.text_model, self.backend, self.cases = text_model, backend, cases
        self._samples_alone: dict[RequestSpec, list[int]] = {}

    def cases_that(self, *, are_long: bool = False, have_rules: bool | None = None) -> list[int]:
        return [
            i
            for i, case in enumerate(self.cases)
            if case.is_long == are_long and (have_rules is None or case.has_rules == have_rules)
        ]

    def engine(self, with_prefix: bool = False, **settings: int) -> CheckedEngine:
        from pipeline.captioning.generation.engine import EngineSettings, SlotEngine

        first = next(case for case in self.cases if case.prefix)
        prefix = self.upload(first.embeddings[None, :PREFIX]) if with_prefix else None
        engine_settings = EngineSettings(**{"slots": 3, "check_every": 1, "prefill_tokens": 2048, **settings})
        engine = SlotEngine(self.text_model, self.backend, engine_settings, prefix=prefix)
        return CheckedEngine(engine, engine_settings.slots, engine_settings.check_every, engine_settings.prefill_tokens)

    def request(self, key: Hashable, spec: RequestSpec, with_prefix: bool = False) -> Request:
        case = self.cases[spec.case]
        skipped = case.prefix if with_prefix and spec.use_prefix else 0
        options = GenerationOptions(
            max_new_tokens=spec.max_tokens,
            temperature=spec.sampling.temperature,
            do_sample=spec.sampling.temperature != 0,
            top_p=spec.sampling.top_p,
            seed=spec.sampling.seed,
            repetition_penalty=case.penalty if case.penalty != 1 else None,
            no_repeat_ngram_size=case.ngram_size or None,
        )
        return Request(
            key,
            self.upload(case.embeddings[skipped:]),
            case.positions[..., skipped:].copy(),
            case.next_position,
            options,
            spec.stops,
            has_prefix=skipped > 0,
            history_ids=case.history_ids,
            stream=spec.sampling.stream,
        )

    def upload(self, values: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(values.copy()).to(self.backend.device)

    def check(self, spec: RequestSpec, end: End) -> None:
        """Check an answer: greedy ones against `generate`, sampled ones against the same request alone in an engine."""
        assert (end.reason, end.message) == (EndReason.STOP if end.ids[-1] in spec.stops else EndReason.LENGTH, "")
        if spec.sampling != GREEDY:
            assert end.ids == self._alone(spec), spec
            return
        case = self.cases[spec.case]
        expected = cut(case.tokens, spec)
        for step, (token, reference) in enumerate(zip(end.ids, expected, strict=False)):
            if token != reference:
                assert case.margins[step] < TIE, f"{spec}, step {step}: {end.ids} instead of {expected}"
                return
        assert len(end.ids) == len(expected), f"{spec}: {end.ids} instead of {expected}"

    def _alone(self, spec: RequestSpec) -> list[int]:
        if spec not in self._samples_alone:
            engine = self.engine(slots=1)
            engine.add(self.request("alone", spec))
            engine.drain()
            self._samples_alone[spec] = engine.ends["alone"].ids
        return self._samples_alone[spec]


def cut(tokens: Sequence[int], spec: RequestSpec) -> list[int]:
    """The part of the reference's tokens that a request with this length and these stop ids gets."""
    for step, token in enumerate(tokens[: spec.max_tokens]):
        if token in spec.stops:
            return list(tokens[: step + 1])
    assert spec.max_tokens <= len(tokens), "the reference is too short"
    return list(tokens[: spec.max_tokens])


@dataclass
class CheckedEngine:
    """An engine that checks its invariants at every call and step.

    first_steps: for each request, the step that returned its first token.
    end_steps: for each request, the step that ended it.
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
        active, waiting = set(self._ids), [key for key in self._open if key not in self._ids]
        events = self.engine.step()
        assert events or not self._open, "a step returned nothing, although the engine has requests"
        tokens: dict[Hashable, int] = {}
        for event in events:
            assert event.key in self._open, f"{event} of a request that the engine does not have"
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
            self._check_work(tokens, active, waiting)
        return events

    def _check_counts(self) -> None:
        assert self.engine.active == len(self._open)
        assert self.engine.free == max(0, self.slots - len(self._open))
        assert self.engine.requests_needed == (0 if self._open else 1)

    def _check_work(self, tokens: dict[Hashable, int], active: set[Hashable], waiting: list[Hashable]) -> None:
        """Check that the step was either one prefill or one round of decoding, and that it was the right choice."""
        if tokens.keys() & active:  # decoding
            assert tokens.keys() <= active, "prefill and decoding in one step"
            assert tokens.keys() >= active & self._open.keys(), "an active answer got no token"
            steps = {tokens[key] for key in active & self._open.keys()}
            assert len(steps) <= 1, "answers that continue got different numbers of tokens"
            assert max(tokens.values()) <= self.check_every
            could_prefill = bool(waiting) and len(active) < self.slots
            self._idle_decodes = self._idle_decodes + 1 if could_prefill else 0
            assert self._idle_decodes <= 1, "a slot stays free although a request waits"
            self._last_was_prefill = False
        else:
            assert set(tokens.values()) == {1} and len(tokens) <= self.slots - len(active)
            lengths = [self._length(key) for key in tokens]
            assert len(lengths) == 1 or sum(lengths) <= self.prefill_tokens
            # An engine that was empty may run further prefills until the first decoding step.
            has_decoded = any(len(self._ids.get(key, [])) > 1 for key in active)
            assert not (self._last_was_prefill and has_decoded), "no decoding step between two prefills"
            self._last_was_prefill, self._idle_decodes = True, 0
            assert waiting[0] in tokens or waiting[0] in self.ends, "the oldest request still waits"

    def _length(self, key: Hashable) -> int:
        return self._open[key].length if key in self._open else 0


def text_model(name: str, nan_token: int | None = None) -> Any:
    from pipeline.captioning.generation.attention import UNMASKED_ATTENTION
    from pipeline.captioning.generation.text_model import TextModel

    return TextModel.of(build(name, UNMASKED_ATTENTION, nan_token))


def complete(
    setup: Setup, specs: Mapping[Any, RequestSpec], with_prefix: bool = False, **settings: int
) -> CheckedEngine:
    """Add all requests before the first step, run the engine until all have ended, and check the answers."""
    engine = setup.engine(with_prefix, **settings)
    for key, spec in specs.items():
        engine.add(setup.request(key, spec, with_prefix))
    engine.drain()
    for key, spec in specs.items():
        setup.check(spec, engine.ends[key])
    return engine
