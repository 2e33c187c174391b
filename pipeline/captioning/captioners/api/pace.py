"""The pace of requests: how many are in flight, how many requests and tokens a minute, and pauses of all requests.

Knows nothing about the network. Time comes from the event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .options import Limits


class TokenBucket:
    """At most `per_minute` units in a minute, in the long run; starts full with those of `burst_seconds`."""

    def __init__(self, per_minute: float) -> None:
        raise NotImplementedError


class Pace:
    """Decides when the next request may be sent.

    After a 429 fewer requests are in flight for a while: half as many, and one more after each answer.
    """

    def __init__(self, limits: Limits) -> None:
        self.pause_seconds = 0.0
        """Seconds in which nothing was sent because the service asked for it."""
        raise NotImplementedError

    @asynccontextmanager
    async def turn(self, tokens: float) -> AsyncIterator[None]:
        """Wait for a turn; the request is in flight within the block. tokens: expected of it, in and out.

        Raises:
            NotSent: `stop` was called.
        """
        raise NotImplementedError
        yield

    def used(self, expected: float, used: float) -> None:
        """Correct the tokens of a request after its answer."""
        raise NotImplementedError

    def pause(self, retry_after: float | None) -> float:
        """Send nothing for `retry_after` seconds, or for a growing time if it is None; returns the seconds."""
        raise NotImplementedError

    def stop(self) -> None:
        """Send nothing any more. Requests in flight are not affected."""
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        raise NotImplementedError

    @property
    def paused_for(self) -> float:
        """Seconds until requests may be sent again; 0 if they may."""
        raise NotImplementedError
