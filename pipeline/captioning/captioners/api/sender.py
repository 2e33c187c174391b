"""Sends one request until it is answered: turns of the pace, retries with growing, jittered waits, the budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .answer import Answer
from .options import Limits
from .pace import Pace
from .service import Service
from .usage import Usage


class Sender:
    """Sends requests. Use it in one event loop.

    stopped: set when no request can succeed any more (`ServiceStop`), or by `stop`.
    """

    def __init__(self, service: Service, pace: Pace, limits: Limits, usage: Usage) -> None:
        raise NotImplementedError

    async def send(self, make_body: Callable[[], dict[str, Any]]) -> Answer:
        """Send a request until it is answered.

        Raises:
            RequestFailed: it is not accepted, or was not answered in `max_tries`; has every different message.
            ServiceStop: no request can succeed any more; every later call raises NotSent.
            NotSent: `stop` was called before the request was sent, or before it was sent again.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Send nothing any more. Requests in flight are not affected."""
        raise NotImplementedError
