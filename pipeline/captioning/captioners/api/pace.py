"""The pace of requests: how many are in flight, how many requests and tokens a minute, and pauses of all requests.

Knows nothing about the network. Time comes from the event loop.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from .errors import NotSent
from .options import Limits
from .retry_after import longest_wait

BURST_SECONDS = 1.0
"""Seconds for which units are saved up while nothing is sent."""

_SMALLEST_WAIT = 0.001  # Seconds. A shorter wait can end before the clock has moved.


class TokenBucket:
    """At most `per_minute` units in any minute, if each take is small against `per_minute`.

    It starts with the units of BURST_SECONDS, at least one, and never has more: a bucket that starts with the units of
    a minute would allow twice the limit in the first minute. The rate is a little below the limit, so that the burst
    fits into it. A take of more units than the bucket can hold waits until it is full; then the bucket has a debt.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / (60.0 + BURST_SECONDS)
        self._capacity = max(1.0, self._rate * BURST_SECONDS)
        self._level = self._capacity
        self._filled_at: float | None = None

    def wait(self, units: float, now: float) -> float:
        """Seconds from `now` until the units can be taken; 0 if they can be taken now."""
        self._fill(now)
        missing = min(units, self._capacity) - self._level
        # Rounding must not leave a rest that is never filled.
        return max(_SMALLEST_WAIT, missing / self._rate) if missing > 1e-9 else 0.0

    def take(self, units: float, now: float) -> None:
        """Take units. Negative units are given back."""
        self._fill(now)
        self._level = min(self._capacity, self._level - units)

    def _fill(self, now: float) -> None:
        if self._filled_at is not None:
            self._level = min(self._capacity, self._level + self._rate * (now - self._filled_at))
        self._filled_at = now


class Pace:
    """Decides when the next request may be sent, in the order in which turns are asked for. Use it in one event loop.

    After a 429 fewer requests are in flight for a while: half as many, and one more after each answer.

    jitter: shortens a pause of this many seconds at random, so that several processes do not send at the same moment.
    """

    def __init__(self, limits: Limits, jitter: Callable[[float], float] | None = None) -> None:
        self.pause_seconds = 0.0
        """Seconds in which nothing was sent because the service asked for it."""
        self._most = self._allowed = limits.concurrency
        requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
        self._requests = None if requests is None else TokenBucket(requests)
        self._tokens = None if tokens is None else TokenBucket(tokens)
        self._jitter = jitter or (lambda seconds: random.uniform(seconds / 2, seconds))
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._in_flight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._pauses = 0  # one after another, without an answer between them
        self._paused_at = self._paused_until = float("-inf")

    @asynccontextmanager
    async def turn(self, tokens: float) -> AsyncIterator[None]:
        """Wait for a turn; the request is in flight within the block. tokens: expected of it, in and out.

        Raises:
            NotSent: `stop` was called.
        """
        if self._stopped:
            raise NotSent
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((granted, tokens))
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._grant()  # The next one may need fewer tokens.
            elif granted.exception() is None:
                self._leave()
            raise
        try:
            if self._stopped:  # between the grant and now
                raise NotSent
            yield
        finally:
            self._leave()

    def used(self, expected: float, used: float) -> None:
        """An answer has arrived: correct the tokens of its request."""
        if self._tokens is not None:
            self._tokens.take(used - expected, _now())
        self._allowed = min(self._most, self._allowed + 1)
        if self.paused_for == 0:  # During a pause, answers are those to requests sent before it.
            self._pauses = 0
        self._grant()

    def pause(self, retry_after: float | None, sent_at: float | None = None) -> float:
        """Send nothing for `retry_after` seconds, or for a growing time if it is None; returns the seconds from now.

        The refused requests that were sent before a pause began belong to that pause: they make it longer only if the
        service asks for a longer one.

        sent_at: time of the event loop when the refused request was sent; None if unknown.
        """
        now = _now()
        known = now < self._paused_until or (sent_at is not None and sent_at < self._paused_at)
        if not known:
            self._allowed = max(1, min(self._allowed, self._in_flight) // 2)
            self._paused_at = now
            self._pauses += 1
        seconds = retry_after or 0.0
        if not known and seconds == 0:
            seconds = self._jitter(longest_wait(self._pauses))
        until = max(self._paused_until, now + seconds)
        self.pause_seconds += max(0.0, until - max(now, self._paused_until))
        self._paused_until = until
        self._grant()
        return self.paused_for

    def stop(self) -> None:
        """Send nothing any more. Requests in flight are not affected."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            granted, _ = self._waiting.popleft()
            if not granted.done():
                granted.set_exception(NotSent())

    @property
    def in_flight(self) -> int:
        """Requests that have a turn."""
        return self._in_flight

    @property
    def paused_for(self) -> float:
        """Seconds until requests may be sent again; 0 if they may."""
        return max(0.0, self._paused_until - _now())

    def _leave(self) -> None:
        self._in_flight -= 1
        self._grant()

    def _grant(self) -> None:
        """Give turns to those who wait, as far as possible; if only time is missing, do it again later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and not self._stopped:
            granted, tokens = self._waiting[0]
            if granted.done():  # cancelled
                self._waiting.popleft()
                continue
            if self._in_flight >= self._allowed:
                return
            wait = self._wait(tokens)
            if wait > 0:
                self._timer = asyncio.get_running_loop().call_later(max(wait, _SMALLEST_WAIT), self._grant)
                return
            self._waiting.popleft()
            self._take(tokens)
            self._in_flight += 1
            granted.set_result(None)

    def _wait(self, tokens: float) -> float:
        now = _now()
        return max(
            self.paused_for,
            0.0 if self._requests is None else self._requests.wait(1, now),
            0.0 if self._tokens is None else self._tokens.wait(tokens, now),
        )

    def _take(self, tokens: float) -> None:
        now = _now()
        if self._requests is not None:
            self._requests.take(1, now)
        if self._tokens is not None:
            self._tokens.take(tokens, now)


def _now() -> float:
    return asyncio.get_running_loop().time()
