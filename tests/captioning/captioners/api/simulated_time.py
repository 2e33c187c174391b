"""Runs coroutines in an event loop whose time does not pass by itself: a wait of an hour takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class _SimulatedClock(selectors.SelectSelector):
    """Where the loop would wait for the next event, the clock is moved to it instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("nothing will ever happen")
        self.now += timeout
        return super().select(0)


class _SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _SimulatedClock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_simulated(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in an own event loop, whose time begins at 0."""
    loop = _SimulatedLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()
