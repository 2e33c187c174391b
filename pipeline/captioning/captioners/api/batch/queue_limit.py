"""How many batches may be open, and how large they may be, by the answers of a service that limits the waiting tokens.

The limit belongs to the organisation, so batches of other jobs count as well. Knows nothing about the network.
"""

from __future__ import annotations

import time
from enum import Enum

FLOOR = 100
"""Requests of a file: files that are not larger are made smaller only after many tries."""
LONGEST_PAUSE = 600.0
"""Seconds between two tries at most."""
_TRIES, _TRIES_AT_FLOOR = 2, 6
"""Tries of a batch, with no other open, before its requests are written to smaller files."""


class Next(Enum):
    """What to do with a batch that is over the limit: submit it again, write smaller files, or give its requests up."""

    AGAIN = "again"
    SMALLER = "smaller"
    FAIL = "fail"


class QueueLimit:
    """max_open: batches that may be open now. max_requests: that a file may have now.

    Both begin with the values given here, which they never exceed. They shrink if the limit is reached, and double with
    each batch that is accepted.
    """

    def __init__(self, max_open: int, max_requests: int, poll_seconds: float) -> None:
        self.max_open, self.max_requests = max_open, max_requests
        self._most_open, self._most_requests, self._poll_seconds = max_open, max_requests, poll_seconds
        self._pauses = self._tries = 0  # since the last batch that was accepted; since the last change of the size
        self._next_try = 0.0
        self._accepted: set[str] = set()

    @property
    def is_pausing(self) -> bool:
        """Whether no batch should be submitted now."""
        return time.monotonic() < self._next_try

    def accepted(self, name: str) -> None:
        """The service has begun with a batch. May be called several times for one."""
        if name in self._accepted:
            return
        self._accepted.add(name)
        self._pauses = self._tries = 0
        self._next_try = 0.0
        self.max_open = min(2 * self.max_open, self._most_open)
        self.max_requests = min(2 * self.max_requests, self._most_requests)

    def reached(self, requests: int, was_alone: bool) -> Next:
        """A batch was over the limit. requests: of it; was_alone: no other batch of the job was open."""
        self.max_open = 1
        if not was_alone:
            return Next.AGAIN
        self._next_try = time.monotonic() + min(LONGEST_PAUSE, self._poll_seconds * 2.0 ** min(self._pauses, 20))
        self._pauses += 1
        self._tries += 1
        if self._tries < (_TRIES if requests > FLOOR else _TRIES_AT_FLOOR):
            return Next.AGAIN
        self._tries = 0
        if requests == 1:
            return Next.FAIL
        half = max(FLOOR, requests // 2) if requests > FLOOR else requests // 2
        self.max_requests = min(self.max_requests, half)
        return Next.SMALLER
