"""An engine for requests with several prompts of one length, for example one for each frame of a clip.

It runs each prompt as a request of its own on another engine, and ends a question when it has ended for all prompts.
The follow-ups of a request are the same text for each of its prompts.
Knows nothing about models, videos and tokenizers. Imports no framework.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from .requests import End, EndReason, Engine, Event, Request, Token

_STREAMS = 1 << 40
"""Distance between the random streams of two prompts of one request; more than there are rows."""


@dataclass(frozen=True)
class JoinedEnd(End):
    """The end of a question of a request with several prompts.

    ids: the tokens of all answers, one answer after the other.
    parts: the end of each prompt, in the order of the prompts; empty if the question ended with an error.
    """

    parts: tuple[End, ...] = ()


class JoinedEngine:
    """Generates an answer for each prompt of a request; see `requests.Engine`.

    The embeddings of a request have the shape (prompts, tokens, width). On the inner engine, prompt `i` of a request
    has the key (key, i). Prompt 0 uses the request's random stream, the others have streams of their own.

    inner: runs the prompts; used by this engine only.
    slots: maximum number of requests in flight.
    """

    def __init__(self, inner: Engine, slots: int) -> None:
        self._inner, self._slots = inner, slots
        # For each request, the ends of its open questions; for each question, those of its prompts.
        self._ends: dict[Hashable, dict[int, list[End | None]]] = {}

    @property
    def on_token(self) -> Callable[[], None]:
        return self._inner.on_token

    @on_token.setter
    def on_token(self, function: Callable[[], None]) -> None:
        self._inner.on_token = function

    @property
    def free(self) -> int:
        return max(0, self._slots - len(self._ends))

    @property
    def active(self) -> int:
        return len(self._ends)

    @property
    def waiting(self) -> int:
        return min(self._inner.waiting, len(self._ends))

    @property
    def requests_needed(self) -> int:
        return min(self._inner.requests_needed, self.free)

    def add(self, request: Request) -> None:
        if request.key in self._ends:
            raise ValueError(f"the engine already has a request {request.key!r}")
        prompts = len(request.embeddings)
        for index in range(prompts):
            self._inner.add(
                dataclasses.replace(
                    request,
                    key=(request.key, index),
                    embeddings=request.embeddings[index],
                    stream=request.stream + index * _STREAMS,
                )
            )
        questions = (request.question, *(follow_up.question for follow_up in request.follow_ups))
        self._ends[request.key] = {question: [None] * prompts for question in questions}

    def step(self) -> list[Event]:
        events: list[Event] = []
        for event in self._inner.step():
            assert isinstance(event.key, tuple)
            key, index = event.key
            questions = self._ends.get(key, {})
            if event.question not in questions:  # ended with the error of an earlier prompt
                continue
            if isinstance(event, Token):
                events.append(Token(key, event.id, event.question))
            elif event.is_error:
                events.append(JoinedEnd(key, event.ids, event.reason, event.message, event.question))
                self._end_question(key, event.question)
            else:
                questions[event.question][index] = event
                events += self._joined(key, event.question)
        return events

    def cancel(self, key: Hashable) -> bool:
        questions = self._ends.pop(key, None)
        if questions is None:
            return False
        for index in range(max(map(len, questions.values()))):
            self._inner.cancel((key, index))
        return True

    def _joined(self, key: Hashable, question: int) -> list[Event]:
        """The end of a question, if it has ended for all prompts."""
        ends = self._ends[key][question]
        parts = tuple(end for end in ends if end is not None)
        if len(parts) < len(ends):
            return []
        self._end_question(key, question)
        ids = [token for part in parts for token in part.ids]
        is_cut = any(part.reason is EndReason.LENGTH for part in parts)
        reason = EndReason.LENGTH if is_cut else EndReason.STOP
        return [JoinedEnd(key, ids, reason, question=question, parts=parts)]

    def _end_question(self, key: Hashable, question: int) -> None:
        """Forget a question; with the last one the request ends, and with it what its prompts still generate."""
        if len(self._ends[key]) == 1:
            self.cancel(key)
        else:
            del self._ends[key][question]
