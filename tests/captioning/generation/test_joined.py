"""A request with several prompts ends once, with the answers of all of them; see `JoinedEngine`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.captioning.generation.base_engine import BaseEngine
from pipeline.captioning.generation.joined import JoinedEnd, JoinedEngine
from pipeline.captioning.generation.length_limit import LengthLimit
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason, FollowUp, Request, Token


class Inner(BaseEngine):
    """Ends the oldest `at_once` requests in a step; `end` says how."""

    def __init__(self, slots: int, at_once: int, end: Callable[[Request], End]) -> None:
        super().__init__(slots, LengthLimit(100))
        self.at_once, self.end, self.waiting, self.requests_needed = at_once, end, 0, slots
        self.streams: dict[Any, int] = {}

    def add(self, request: Request) -> None:
        self.streams[request.key] = request.stream
        self._accept(request)

    def step(self) -> list[Any]:
        events = self._pop_rejected()
        batch = self._waiting[: self.at_once]
        self._remove_waiting(batch)
        for request in batch:
            end = self.end(request)
            events += [*(Token(request.key, token) for token in end.ids), end]
        self._forget_ended(events)
        return events


def _request(key: int, prompts: int, tokens: int = 4) -> Request:
    values: Any = np.full((prompts, tokens, 2), key) + np.arange(prompts)[:, None, None] / 10
    return Request(key, values, np.arange(tokens), tokens, GenerationOptions(max_new_tokens=9), frozenset(), stream=key)


def _answer(request: Request) -> End:
    """Two tokens that tell the prompt."""
    value = round(float(request.embeddings[0, 0]) * 10)
    return End(request.key, [value, value], EndReason.STOP)


def test_a_request_ends_once_with_all_answers_in_the_order_of_its_prompts() -> None:
    engine = JoinedEngine(Inner(6, 2, _answer), slots=3)
    for key, prompts in ((1, 3), (2, 1)):
        engine.add(_request(key, prompts))
    assert engine.active == 2 and engine.free == 1 == engine.requests_needed
    first = engine.step()
    assert first == [Token(1, 10), Token(1, 10), Token(1, 11), Token(1, 11)]
    *tokens, end, other, other_again, other_end = engine.step()
    assert tokens == [Token(1, 12), Token(1, 12)] and other == other_again == Token(2, 20)
    assert isinstance(end, JoinedEnd) and isinstance(other_end, JoinedEnd)
    assert end.key == 1 and end.ids == [10, 10, 11, 11, 12, 12] and end.reason is EndReason.STOP
    assert [part.ids for part in end.parts] == [[10, 10], [11, 11], [12, 12]]
    assert other_end.key == 2 and [part.ids for part in other_end.parts] == [[20, 20]]
    assert engine.active == 0 and engine.free == 3 and engine.step() == []


def test_a_cut_answer_marks_the_whole_end() -> None:
    def cut(request: Request) -> End:
        return End(request.key, [7], EndReason.LENGTH if request.key == (1, 0) else EndReason.STOP)

    engine = JoinedEngine(Inner(6, 6, cut), slots=3)
    engine.add(_request(1, 2))
    engine.add(_request(2, 2))
    ends = {event.key: event.reason for event in engine.step() if isinstance(event, End)}
    assert ends == {1: EndReason.LENGTH, 2: EndReason.STOP}


@pytest.mark.parametrize("at_once", [1, 4])
def test_an_error_in_one_prompt_ends_the_request_and_no_other(at_once: int) -> None:
    def fail(request: Request) -> End:
        if request.key == (1, 1):
            return End(request.key, [], EndReason.NOT_A_NUMBER, "overflow")
        return _answer(request)

    engine = JoinedEngine(Inner(9, at_once, fail), slots=3)
    engine.add(_request(1, 4))
    engine.add(_request(2, 2))
    events = [event for _ in range(6) for event in engine.step()]
    failed, answered = (event for event in events if isinstance(event, End))
    assert failed.key == 1 and failed.is_error and failed.message == "overflow" and failed.ids == []
    assert answered.key == 2 and answered.ids == [20, 20, 21, 21]
    later = events[events.index(failed) + 1 :]
    assert later and all(event.key == 2 for event in later)
    assert engine.active == 0


class InTurn(Inner):
    """Ends one question of every request in a step."""

    def step(self) -> list[Any]:
        events = self._pop_rejected()
        for i, request in enumerate(self._waiting):
            end = self.end(request)
            events += [*(Token(request.key, token, request.question) for token in end.ids), end]
            if request.follow_ups:
                self._waiting[i] = dataclasses.replace(
                    request, question=request.follow_ups[0].question, follow_ups=request.follow_ups[1:]
                )
        self._forget_ended(events)
        self._waiting = [request for request in self._waiting if request.key in self._open]
        return events


def _with_questions(request: Request, questions: tuple[int, ...]) -> Request:
    """The request with these numbers of its questions."""
    text: Any = np.zeros((2, 2))
    follow_ups = tuple(FollowUp(number, text, np.arange(2), 2) for number in questions[1:])
    return dataclasses.replace(request, question=questions[0], shared=1, follow_ups=follow_ups)


def _ends(events: list[Any]) -> dict[Any, Any]:
    return {(event.key, event.question): event for event in events if isinstance(event, End)}


def test_every_question_ends_once_with_the_answers_of_all_prompts() -> None:
    def answer(request: Request) -> End:
        return dataclasses.replace(_answer(request), question=request.question)

    engine = JoinedEngine(InTurn(9, 9, answer), slots=2)
    engine.add(_with_questions(_request(1, 2), (4, 2, 9)))
    engine.add(_with_questions(_request(2, 3), (4,)))
    first = engine.step()
    ends = _ends(first)
    assert ends.keys() == {(1, 4), (2, 4)} and engine.active == 1 and engine.free == 1
    assert ends[1, 4].ids == [10, 10, 11, 11] and ends[2, 4].ids == [20, 20, 21, 21, 22, 22]
    assert [event.question for event in first if isinstance(event, Token)] == [4] * 10
    assert _ends(engine.step()).keys() == {(1, 2)} and engine.active == 1
    assert _ends(engine.step()).keys() == {(1, 9)} and engine.active == 0
    assert engine.step() == []


def test_an_error_in_one_question_ends_no_other_question() -> None:
    def fail(request: Request) -> End:
        if request.key == (1, 0) and request.question in (5, 7):
            return End(request.key, [], EndReason.NOT_A_NUMBER, "overflow", request.question)
        return dataclasses.replace(_answer(request), question=request.question)

    inner = InTurn(9, 9, fail)
    engine = JoinedEngine(inner, slots=2)
    engine.add(_with_questions(_request(1, 3), (5, 6, 7)))
    events = [*engine.step(), *engine.step(), *engine.step()]
    ends = [event for event in events if isinstance(event, End)]
    assert [(end.question, end.is_error, end.ids) for end in ends] == [
        (5, True, []),
        (6, False, [10, 10, 11, 11, 12, 12]),
        (7, True, []),
    ]
    assert all(isinstance(end, JoinedEnd) for end in ends)
    assert engine.active == inner.active == 0 and engine.step() == []


def test_questions_that_are_too_long_end_once_and_a_cancelled_request_gives_no_event() -> None:
    def answer(request: Request) -> End:
        return dataclasses.replace(_answer(request), question=request.question)

    inner = InTurn(9, 9, answer)
    engine = JoinedEngine(inner, slots=2)
    request = _with_questions(_request(1, 2), (5, 6, 7))
    too_long = dataclasses.replace(request.follow_ups[0], positions=np.arange(91))
    engine.add(dataclasses.replace(request, follow_ups=(too_long, request.follow_ups[1])))
    ends = _ends(engine.step())
    assert ends.keys() == {(1, 5), (1, 6)} and ends[1, 6].reason is EndReason.TOO_LONG
    assert engine.cancel(1) and inner.active == 0 and engine.step() == []


def test_a_prompt_that_is_too_long_gives_one_end() -> None:
    engine = JoinedEngine(Inner(9, 9, _answer), slots=3)
    engine.add(_request(1, 3, tokens=95))
    (end,) = engine.step()
    assert (
        isinstance(end, End) and end.key == 1 and end.reason is EndReason.TOO_LONG and "95 prompt tokens" in end.message
    )
    assert engine.step() == [] and engine.active == 0


def test_a_cancelled_request_gives_no_event_and_its_key_can_be_used_again() -> None:
    engine = JoinedEngine(Inner(6, 1, _answer), slots=2)
    engine.add(_request(1, 3))
    with pytest.raises(ValueError, match="already has a request 1"):
        engine.add(_request(1, 1))
    assert engine.step() and engine.cancel(1) and not engine.cancel(1)
    assert engine.step() == [] and engine.active == 0
    engine.add(_request(1, 1))
    assert [event.key for event in engine.step()] == [1, 1, 1]


def test_every_prompt_has_a_random_stream_of_its_own() -> None:
    inner = Inner(9, 9, _answer)
    engine = JoinedEngine(inner, slots=3)
    for key in range(3):
        engine.add(_request(key, 3))
    assert len(set(inner.streams.values())) == 9
    assert [inner.streams[key, 0] for key in range(3)] == [0, 1, 2]


def test_on_token_is_that_of_the_inner_engine() -> None:
    inner, calls = Inner(1, 1, _answer), []
    engine = JoinedEngine(inner, slots=1)
    engine.on_token = lambda: calls.append(1)
    inner.on_token()
    assert calls == [1]
