"""Tracks the requests of an engine from `add` to their end: the part of `requests.Engine` that all engines share.

Knows nothing about models and caches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from .length_limit import LengthLimit
from .requests import End, Event, Request, ends_of_too_long


class BaseEngine:
    """Keeps the keys of all requests, the waiting requests, and the ends of questions that are too long for the model.

    max_requests: maximum number of requests in flight.
    limit: longest sequence of the model.
    """

    def __init__(self, max_requests: int, limit: LengthLimit) -> None:
        self._max_requests, self._limit = max_requests, limit
        self.on_token: Callable[[], None] = _nothing
        self._open: dict[Hashable, int] = {}  # number of questions that have not ended, of each request
        self._rejected: list[End] = []
        self._waiting: list[Request] = []

    @property
    def free(self) -> int:
        return max(0, self._max_requests - len(self._open))

    @property
    def active(self) -> int:
        return len(self._open)

    def _accept(self, request: Request, prefix: int = 0) -> None:
        """Queue a request. Its questions that are too long for the model end in the next step.

        prefix: tokens of the shared prefix that the request begins with; 0 if it does not.

        Raises:
            ValueError: the engine already has a request with this key.
        """
        if request.key in self._open:
            raise ValueError(f"the engine already has a request {request.key!r}")
        too_long = ends_of_too_long(request, prefix, self._limit)
        self._open[request.key] = 1 + len(request.follow_ups)
        self._rejected += too_long
        if len(too_long) < self._open[request.key]:
            rejected = {end.question for end in too_long}
            self._waiting.append(request.without(rejected) if rejected else request)

    def cancel(self, key: Hashable) -> bool:
        is_known = self._open.pop(key, None) is not None
        self._rejected = [end for end in self._rejected if end.key != key]
        self._waiting = [request for request in self._waiting if request.key != key]
        return is_known

    def _pop_rejected(self) -> list[Event]:
        """The ends of the questions that are too long for the model. Each end is returned once."""
        rejected, self._rejected = self._rejected, []
        return [*rejected]

    def _remove_waiting(self, group: Sequence[Request]) -> None:
        """Remove the requests of `group` from the waiting ones."""
        taken = {request.key for request in group}
        self._waiting = [request for request in self._waiting if request.key not in taken]

    def _forget_ended(self, events: Sequence[Event]) -> None:
        """Count the ends among `events`, and forget the requests whose last question has ended."""
        for event in events:
            if isinstance(event, End):
                self._open[event.key] -= 1
                if not self._open[event.key]:
                    del self._open[event.key]


def _nothing() -> None:
    pass
