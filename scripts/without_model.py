"""A captioner source and an engine without a model: for simulations and for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.captioning.captioners.base import CaptionerSource
from pipeline.captioning.generation.requests import End, EndReason, Event, Request


class SourceWithoutModel(CaptionerSource):
    """A source that checks nothing; subclasses define `load`."""

    def fingerprint(self) -> Mapping[str, str]:
        return {"prompt": "none"}

    def describe(self) -> list[str]:
        return []

    def check_weights(self) -> None:
        pass


class EngineWithoutModel:
    """An engine without a model: each step ends the requests that a function selects.

    slots: maximum number of active requests.
    generate: called in each step with the keys of all active requests, oldest first, and `slots`; returns the keys of
        the requests that end.
    """

    waiting = 0
    on_token: Any = None

    def __init__(self, slots: int, generate: Callable[[list[int], int], list[int]]) -> None:
        self._slots, self._generate = slots, generate
        self._keys: list[int] = []

    @property
    def free(self) -> int:
        return self._slots - len(self._keys)

    @property
    def active(self) -> int:
        return len(self._keys)

    @property
    def requests_needed(self) -> int:
        """All that fit: it steps when its slots are full."""
        return self.free

    def add(self, request: Request) -> None:
        assert isinstance(request.key, int)
        self._keys.append(request.key)

    def cancel(self, key: object) -> bool:
        raise NotImplementedError

    def step(self) -> list[Event]:
        if not self._keys:
            return []
        ended = self._generate(list(self._keys), self._slots)
        self._keys = [key for key in self._keys if key not in ended]
        return [End(key, [0], EndReason.STOP) for key in ended]
