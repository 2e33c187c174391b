"""An engine under test: checks every call and step, and compares answers with the reference."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.captioning.backends import Backend
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason, Event, FollowUp, Request, Token

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
    follow_ups: indices of cases of the same group, for the follow-ups.
    max_tokens: maximum number of new tokens of each answer.
    stops: stop ids.
    use_prefix: use the engine's shared prefix in place of the first tokens, if the case begins with it.
    """

    case: int
    max_tokens: int = NEW_TOKENS
    stops: frozenset[int] = frozenset()
    use_prefix: bool = True
    sampling: Sampling = GREEDY
    follow_ups: tuple[int, ...] = ()

    @property
    def questions(self) -> dict[int, int]:
        """The case of each question, by its number."""
        if not self.follow_ups:
            return {0: self.case}
        return {7 - i: case for i, case in enumerate((self.case, *self.follow_ups))}


class Setup:
    """A tiny model on this framework, and the reference's cases for it.

    Not a dataclass, because hypothesis would print all arrays.
    """

    def __init__(self, text_model: Any, backend: Backend, cases: list[Case]) -> None:
        self.text_model, self.backend, self.cases = text_model, backend, cases
        self._samples_alone: dict[RequestSpec, list[int]] = {}
        numbers = sorted({case.group for case in cases} - {-1})
        self.groups = [[i for i, case in enumerate(cases) if case.group == number] for number in numbers]
        """Indices of the cases of each group."""

    def cases_that(self, *, are_long: bool = False, have_rules: bool | None = None) -> list[int]:
        return [
            i
            for i, case in enumerate(self.cases)
            if case.group < 0 and case.is_long == are_long and (have_rules is None or case.has_rules == have_rules)
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
            question=next(iter(spec.questions)),
            shared=case.shared - skipped if spec.follow_ups else 0,
            follow_ups=tuple(
                self._follow_up(number, self.cases[index]) for number, index in list(spec.questions.items())[1:]
            ),
        )

    def _follow_up(self, number: int, case: Case) -> FollowUp:
        text, positions = case.embeddings[case.shared :], case.positions[..., case.shared :]
        return FollowUp(number, self.upload(text), positions.copy(), case.next_position, case.history_ids)

    def upload(self, values: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(values.copy()).to(self.backend.device)

    def check(self, spec: RequestSpec, end: End) -> None:
        """Check an answer: greedy ones against `generate`, sampled ones against the same question asked alone."""
        spec = replace(spec, case=spec.questions[end.question], follow_ups=())
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

    def check_all(self, spec: RequestSpec, ends: Mapping[int, End]) -> None:
        """Check the answers to all questions of a request."""
        assert list(ends) == list(spec.questions)
        for end in ends.values():
            self.check(spec, end)

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

    ends: for each request, the end of its last question.
    answers: for each request, the ends of its questions by their number, in the order in which they ended.
    first_steps: for each request, the step that returned its first token.
    end_steps: for each request, the step that ended it.
    """

    engine: Any
    slots: int
    check_every: int
    prefill_tokens: int
    step_number: int = 0
    ends: dict[Hashable, End] = field(default_factory=dict)
    answers: dict[Hashable, dict[int, End]] = field(default_factory=dict)
    first_steps: dict[Hashable, int] = field(default_factory=dict)
    end_steps: dict[Hashable, int] = field(default_factory=dict)
    _open: dict[Hashable, _Progress] = field(default_factory=dict)
    _prefills: set[str] = field(default_factory=set)  # kinds of prefill since the last decoding step
    _idle_decodes: dict[str, int] = field(default_factory=lambda: {"prompts": 0, "follow-ups": 0})

    def add(self, request: Request) -> None:
        self.engine.add(request)
        self._open[request.key] = _Progress(request)
        self.ends.pop(request.key, None)
        self.answers[request.key] = {}
        self._check_counts()

    def cancel(self, key: Hashable) -> None:
        assert self.engine.cancel(key) is (key in self._open)
        self._open.pop(key, None)
        self._check_counts()

    def drain(self) -> None:
        while self._open:
            self.step()
        assert self.engine.step() == []

    def step(self) -> list[Event]:
        self.step_number += 1
        before = {key: replace(progress) for key, progress in self._open.items()}
        events = self.engine.step()
        assert events or not self._open, "a step returned nothing, although the engine has requests"
        tokens: dict[Hashable, int] = {}
        for event in events:
            assert event.key in self._open, f"{event} of a request that the engine does not have"
            progress = self._open[event.key]
            assert event.question in progress.left
            if isinstance(event, Token):
                assert event.question == progress.left[0]
                assert isinstance(event.id, int) and 0 <= event.id < VOCABULARY
                progress.ids = [*progress.ids, event.id]
                self.first_steps.setdefault(event.key, self.step_number)
                tokens[event.key] = tokens.get(event.key, 0) + 1
            else:
                self._end(event, progress)
        self._check_counts()
        if tokens:
            self._check_work(tokens, before)
        else:  # only requests that are too long, or a prefill whose output is not a number
            self._prefills.clear()
            self._idle_decodes = dict.fromkeys(self._idle_decodes, 0)
        return events

    def _end(self, end: End, progress: _Progress) -> None:
        assert end.is_error == bool(end.message)
        if end.reason is EndReason.TOO_LONG:
            assert end.ids == []
        else:
            assert end.question == progress.left[0] and end.ids == progress.ids
            if end.ids or progress.has_slot:
                progress.has_slot, progress.since = True, self.step_number
            else:  # the prefill of the prompt gave NaN: the next question waits for a slot, before all others
                self._open = {end.key: progress, **self._open}
            progress.ids = []
        progress.left = [question for question in progress.left if question != end.question]
        self.answers[end.key][end.question] = end
        if not progress.left:
            self.ends[end.key] = end
            self.end_steps[end.key] = self.step_number
            del self._open[end.key]

    def _check_counts(self) -> None:
        assert self.engine.active == len(self._open)
        assert self.engine.free == max(0, self.slots - len(self._open))
        assert self.engine.requests_needed == (0 if self._open else 1)

    def _check_work(self, tokens: dict[Hashable, int], before: Mapping[Hashable, _Progress]) -> None:
        """Check that the step was one prefill of prompts, one of follow-ups, or one round of decoding, and that it was
        the right choice."""
        waiting = [key for key, progress in before.items() if not progress.ids and not progress.has_slot]
        pending = {key: progress for key, progress in before.items() if not progress.ids and progress.has_slot}
        decoding = {key: progress for key, progress in before.items() if progress.ids}
        has_free_slots = len(decoding) + len(pending) < self.slots
        if tokens.keys() & decoding.keys():
            self._check_decoding(
                tokens, decoding, {"prompts": bool(waiting) and has_free_slots, "follow-ups": bool(pending)}
            )
            return
        kind = "follow-ups" if tokens.keys() & pending.keys() else "prompts"
        assert set(tokens.values()) == {1}
        if kind == "follow-ups":
            assert tokens.keys() <= pending.keys(), "prompts and follow-ups in one step"
            lengths = [pending[key].follow_up_length for key in tokens]
            oldest = min(progress.since for progress in pending.values())
            assert any(progress.since == oldest and self._has_moved(key, progress) for key, progress in pending.items())
        else:
            assert len(tokens) <= self.slots - len(decoding) - len(pending)
            assert has_free_slots and (not pending or kind in self._prefills or "follow-ups" in self._prefills)
            lengths = [before[key].request.length for key in tokens]
            assert self._has_moved(waiting[0], before[waiting[0]]), "the oldest request still waits"
        assert len(lengths) == 1 or sum(lengths) <= self.prefill_tokens
        # An engine in which no answer has begun may run further prefills until the first decoding step.
        has_decoded = any(len(progress.ids) > 1 for progress in decoding.values())
        assert not (kind in self._prefills and has_decoded), "no decoding step between two prefills"
        self._prefills.add(kind)
        self._idle_decodes[kind] = 0

    def _check_decoding(
        self, tokens: dict[Hashable, int], decoding: Mapping[Hashable, _Progress], could_prefill: dict[str, bool]
    ) -> None:
        continuing = {key for key, progress in decoding.items() if not self._has_ended(key, progress)}
        assert tokens.keys() <= decoding.keys(), "prefill and decoding in one step"
        assert tokens.keys() >= continuing, "an active answer got no token"
        assert len({tokens[key] for key in continuing}) <= 1, "answers that continue got different numbers of tokens"
        assert max(tokens.values()) <= self.check_every
        for kind, could in could_prefill.items():
            self._idle_decodes[kind] = self._idle_decodes[kind] + 1 if could else 0
            assert self._idle_decodes[kind] <= 1, f"a slot stays idle although {kind} wait"
        self._prefills.clear()

    def _has_ended(self, key: Hashable, progress: _Progress) -> bool:
        """Whether the question that was answered before the step has ended."""
        return key not in self._open or self._open[key].left != progress.left

    def _has_moved(self, key: Hashable, progress: _Progress) -> bool:
        """Whether the step has begun an answer of a request, or ended a question."""
        return self._has_ended(key, progress) or bool(self._open[key].ids)


@dataclass
class _Progress:
    """The state of a request.

    left: the questions that have not ended.
    ids: tokens of the current answer.
    has_slot: whether the answer to a question has ended, so that follow-ups wait in a slot.
    since: the step in which it ended.
    """

    request: Request
    left: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    has_slot: bool = False
    since: int = 0

    def __post_init__(self) -> None:
        request = self.request
        self.left = self.left or [request.question, *(follow_up.question for follow_up in request.follow_ups)]

    @property
    def follow_up_length(self) -> int:
        return next(one.length for one in self.request.follow_ups if one.question == self.left[0])


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
        setup.check_all(spec, engine.answers[key])
    return engine
