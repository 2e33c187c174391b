"""What can go wrong with a request, and what follows from it. Knows nothing about the library of the service."""

from __future__ import annotations

from ...process.errors import RunError

BLOCKED, REFUSED, EMPTY, INVALID = "blocked", "refused", "empty", "invalid"
REJECTED, SERVICE = "rejected", "service"
"""Stages of failures: a filter of the service blocked it; the model refused; there is no text; the answer does not fit
the schema; the service does not accept the request; the service gave no answer."""


class TryAgain(Exception):
    """A request that may succeed later: connection, time-out, 408, 409, 429, 5xx, an answer that can't be read.

    pauses_all: 429: no request is sent until the pause is over.
    retry_after: seconds that the service asks for, without a limit; None if it does not say.
    """

    def __init__(self, message: str, pauses_all: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.pauses_all, self.retry_after = pauses_all, retry_after


class RequestFailed(Exception):
    """A request that the service does not accept, or did not answer in `max_tries`.

    stage: BLOCKED, REJECTED or SERVICE.
    """

    def __init__(self, message: str, stage: str = REJECTED) -> None:
        super().__init__(message)
        self.stage = stage


class ServiceStop(RunError):
    """No request can succeed any more: key, model, quota, `--max_cost`. Nothing that was paid for is lost.

    hint: see `RunError`.
    """

    def __init__(self, message: str, hint: str = RunError.hint) -> None:
        super().__init__(message)
        self.hint = hint


class NotSent(Exception):
    """The request was not sent, because the run ends."""
