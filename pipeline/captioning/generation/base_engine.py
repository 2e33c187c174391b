"""The requests of an engine between `add` and their end: the part of `requests.Engine` that all engines share.

Knows no model and no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from .requests import End, Event, Request, refusal


class BaseEngine:
    """Keeps the keys of all requests, those that wait, and those that do not fit the model.

    most: requests that are worked on at once.
    max_positions: longest sequence of the model, in tokens.
    """

    def __init__(self, most: int, max_positions: int) -> None:
        self._most, self._max_positions = most, max_positions
        self.on_token: Callable[[], None] = _nothing
        self._keys: set[Hashable] = set()
        self._refused: list[End] = []
        self._waiting: list[Request] = []

    @property
    def free(self) -> int:
        return max(0, self._most - len(self._keys))

    @property
    def active(self) -> int:
        return len(self._keys)

    def _accept(self, request: Request, prompt_tokens: int) -> None:
        """Let a request wait, or end with the next step if it does not fit. prompt_tokens: with a shared prefix.

        Raises:
            ValueError: a request with this key is there already.
        """
        if request.key in self._keys:
            raise ValueError(f"request {request.key!r} is there already")
        self._keys.add(request.key)
        refused = refusal(request, prompt_tokens, self._max_positions)
        if refused is None:
            self._waiting.append(request)
        else:
            self._refused.append(refused)

    def cancel(self, key: Hashable) -> bool:
        is_there = key in self._keys
        self._keys.discard(key)
        self._refused = [end for end in self._refused if end.key != key]
        self._waiting = [request for request in self._waiting if request.key != key]
        return is_there

    def _take_refused(self) -> list[Event]:
        """The ends of requests that do not fit."""
        refused, self._refused = self._refused, []
        return [*refused]

    def _take(self, group: Sequence[Request]) -> None:
        """These requests do not wait any more."""
        taken = {request.key for request in group}
        self._waiting = [request for request in self._waiting if request.key not in taken]

    def _forget_ended(self, events: Sequence[Event]) -> None:
        self._keys -= {event.key for event in events if isinstance(event, End)}


def _nothing() -> None:
    pass
