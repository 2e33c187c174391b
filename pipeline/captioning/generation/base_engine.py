"""Tracks the requests of an engine from `add` to their end: the part of `requests.Engine` that all engines share.

Knows nothing about models and caches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from .length_limit import LengthLimit
from .requests import End, Event, Request, end_if_too_long


class BaseEngine:
    """Keeps the keys of all requests, the waiting requests, and the requests that are too long for the model.

    max_requests: maximum number of requests in flight.
    limit: longest sequence of the model.
    """

    def __init__(self, max_requests: int, limit: LengthLimit) -> None:
        self._max_requests, self._limit = max_requests, limit
        self.on_token: Callable[[], None] = _nothing
        self._keys: set[Hashable] = set()
        self._rejected: list[End] = []
        self._waiting: list[Request] = []

    @property
    def free(self) -> int:
        return max(0, self._max_requests - len(self._keys))

    @property
    def active(self) -> int:
        return len(self._keys)

    def _accept(self, request: Request, prompt_tokens: int) -> None:
        """Queue a request. A request that is too long for the model ends in the next step.

        prompt_tokens: tokens of the prompt, with the shared prefix.

        Raises:
            ValueError: the engine already has a request with this key.
        """
        if request.key in self._keys:
            raise ValueError(f"the engine already has a request {request.key!r}")
        self._keys.add(request.key)
        too_long = end_if_too_long(request, prompt_tokens, self._limit)
        if too_long is None:
            self._waiting.append(request)
        else:
            self._rejected.append(too_long)

    def cancel(self, key: Hashable) -> bool:
        is_known = key in self._keys
        self._keys.discard(key)
        self._rejected = [end for end in self._rejected if end.key != key]
        self._waiting = [request for request in self._waiting if request.key != key]
        return is_known

    def _pop_rejected(self) -> list[Event]:
        """The ends of the requests that are too long for the model. Each end is returned once."""
        rejected, self._rejected = self._rejected, []
        return [*rejected]

    def _remove_waiting(self, group: Sequence[Request]) -> None:
        """Remove the requests of `group` from the waiting ones."""
        taken = {request.key for request in group}
        self._waiting = [request for request in self._waiting if request.key not in taken]

    def _forget_ended(self, events: Sequence[Event]) -> None:
        self._keys -= {event.key for event in events if isinstance(event, End)}


def _nothing() -> None:
    pass
