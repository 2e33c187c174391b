"""Sends one request until it is answered: turns of the pace, retries with growing, jittered waits, the budget."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .answer import Answer
from .errors import SERVICE, NotSent, RequestFailed, ServiceStop, TryAgain
from .options import Limits
from .pace import Pace
from .responses import one_line
from .retry_after import longest_wait
from .usage import Usage

if TYPE_CHECKING:  # It imports the library, which takes half a second.
    from .service import Service

logger = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""Shorter pauses are logged at most once in this time."""

FIRST_TOKENS = 1000.0
"""Tokens that a request is expected to take before there is an answer: three small images and a short question."""


class Sender:
    """Sends requests. Use it in one event loop.

    A try that timed out or was cut off may have been charged by the service although it is sent again; no client can
    know that.

    With a budget, requests are sent one at a time until there is an answer, because nobody knows before what one costs.

    stopped: set when no request can succeed any more (`ServiceStop`), or by `stop`.
    problem: the first reason why no request can succeed any more; None if there is none.

    jitter: the wait before the next try, out of the longest one, in seconds; by default half of it or more, at random.
    """

    def __init__(
        self,
        service: Service,
        pace: Pace,
        limits: Limits,
        usage: Usage,
        jitter: Callable[[float], float] | None = None,
    ) -> None:
        self.stopped = asyncio.Event()
        self.problem: ServiceStop | None = None
        self._service, self._pace, self._usage = service, pace, usage
        self._max_tries = limits.max_tries
        self._jitter = jitter or (lambda longest: random.uniform(longest / 2, longest))
        self._alone = asyncio.Lock()
        self._received = usage.answers
        self._logged_at = self._warned_at = float("-inf")
        self._unlogged = 0  # tries without an answer since the last warning

    async def send(self, make_body: Callable[[], dict[str, Any]]) -> Answer:
        """Send a request until it is answered.

        Raises:
            RequestFailed: it is not accepted, or was not answered in `max_tries`; has every different message.
            ServiceStop: no request can succeed any more; every later call raises NotSent.
            NotSent: `stop` was called before the request was sent, or before it was sent again.
        """
        messages: Counter[str] = Counter()
        for number in range(1, self._max_tries + 1):
            try:
                return await self._send_once(make_body, again=number > 1)
            except TryAgain as error:
                messages[str(error)] += 1
                self._warn(error)
                if number < self._max_tries:
                    await self._wait(number, error)
            except RequestFailed as error:
                if messages:
                    raise RequestFailed(one_line(f"{error}; before that: {_joined(messages)}"), error.stage) from None
                raise
            except ServiceStop as error:
                self.problem = self.problem or error
                self.stop()
                raise
        times = f"{self._max_tries} tries" if self._max_tries > 1 else "1 try"
        raise RequestFailed(one_line(f"not answered in {times}: {_joined(messages)}"), SERVICE)

    def stop(self) -> None:
        """Send nothing any more. Requests in flight are not affected."""
        self._pace.stop()
        self.stopped.set()

    async def _send_once(self, make_body: Callable[[], dict[str, Any]], again: bool) -> Answer:
        if self._usage.has_budget and not self._usage.knows_an_answer:
            async with self._alone:
                if not self._usage.knows_an_answer:
                    return await self._send_now(make_body, again)
        return await self._send_now(make_body, again)

    async def _send_now(self, make_body: Callable[[], dict[str, Any]], again: bool) -> Answer:
        expected = sum(self._usage.expected_tokens(FIRST_TOKENS))
        async with self._pace.turn(expected):
            self._check_budget()
            self._usage.requests += 1
            self._usage.retries += again
            sent_at = asyncio.get_running_loop().time()
            try:
                answer = await self._service.complete(make_body())
            except TryAgain as error:
                if error.pauses_all:
                    # In the turn: nobody else may send before the pause has begun.
                    self._pause(error, sent_at)
                raise
            self._received += 1
            if answer.has_usage and self._usage.first_tokens is None:
                self._usage.first_tokens = answer.prompt_tokens, answer.completion_tokens
            self._pace.used(expected, answer.prompt_tokens + answer.completion_tokens if answer.has_usage else expected)
            return answer

    def _check_budget(self) -> None:
        """Raise ServiceStop if another request may exceed the budget."""
        # Answers that have arrived and are not yet counted are still being stored.
        open_answers = max(0, self._received - self._usage.answers)
        if self._usage.may_send(self._pace.in_flight - 1 + open_answers):
            return
        raise ServiceStop(self._usage.why_not_sent(), hint="")

    def _pause(self, error: TryAgain, sent_at: float) -> None:
        was_paused = self._pace.paused_for > 0
        seconds = self._pace.pause(error.retry_after, sent_at)
        now = asyncio.get_running_loop().time()
        if (seconds >= LOG_SECONDS and not was_paused) or (seconds > 0 and now >= self._logged_at + LOG_SECONDS):
            logger.info("nothing is sent for %.1f s: %s", seconds, error)
            self._logged_at = now

    def _warn(self, error: TryAgain) -> None:
        """Log that requests are tried again, at most once in LOG_SECONDS. Pauses are logged by `_pause`."""
        if error.pauses_all:
            return
        self._unlogged += 1
        now = asyncio.get_running_loop().time()
        if now >= self._warned_at + LOG_SECONDS:
            what = "a request is" if self._unlogged == 1 else f"{self._unlogged} requests were or are"
            logger.warning("%s tried again: %s", what, error)
            self._warned_at, self._unlogged = now, 0

    async def _wait(self, tries: int, error: TryAgain) -> None:
        """Wait before the next try. A pause of all requests needs no further wait."""
        if error.pauses_all:
            return
        seconds = self._jitter(longest_wait(tries))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.stopped.wait(), max(seconds, error.retry_after or 0.0))
            raise NotSent


def _joined(messages: Counter[str]) -> str:
    return "; ".join(f"{text} ({count} times)" if count > 1 else text for text, count in messages.items())
