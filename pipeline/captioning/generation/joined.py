"""An engine for requests with several prompts of one length, for example one for each frame of a clip.

It runs each prompt as a request of its own on another engine, and ends the whole request when all of them have ended.
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
    """The end of a request with several prompts.

    ids: the tokens of all answers, one answer after the other.
    parts: the end of each prompt, in the order of the prompts; empty if the request ended with an error.
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
        self._ends: dict[Hashable, list[End | None]] = {}

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
        self._ends[request.key] = [None] * prompts
        for index in range(prompts):
            self._inner.add(
                dataclasses.replace(
                    request,
                    key=(request.key, index),
                    embeddings=request.embeddings[index],
                    stream=request.stream + index * _STREAMS,
                )
            )

    def step(self) -> list[Event]:
        events: list[Event] = []
        for event in self._inner.step():
            assert isinstance(event.key, tuple)
            key, index = event.key
            if key not in self._ends:  # ended with the error of an earlier prompt
                continue
            if isinstance(event, Token):
                events.append(Token(key, event.id))
            elif event.is_error:
                self.cancel(key)
                events.append(JoinedEnd(key, event.ids, event.reason, event.message))
            else:
                self._ends[key][index] = event
                events += self._joined(key)
        return events

    def cancel(self, key: Hashable) -> bool:
        ends = self._ends.pop(key, None)
        for index, end in enumerate(ends or ()):
            if end is None:
                self._inner.cancel((key, index))
        return ends is not None

    def _joined(self, key: Hashable) -> list[Event]:
        """The end of a request, if all its prompts have ended."""
        parts = tuple(end for end in self._ends[key] if end is not None)
        if len(parts) < len(self._ends[key]):
            return []
        del self._ends[key]
        ids = [token for part in parts for token in part.ids]
        is_cut = any(part.reason is EndReason.LENGTH for part in parts)
        return [JoinedEnd(key, ids, EndReason.LENGTH if is_cut else EndReason.STOP, parts=parts)]
