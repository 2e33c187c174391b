"""Ctrl-C and SIGTERM: captions in flight may end, if that takes seconds; a second signal ends at once."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""For the captions in flight: schedulers kill some 30 s after SIGTERM."""
ECHO_SECONDS = 2.0
"""A signal so soon after the first is the same: Ctrl-C reaches a worker from the terminal and from torchrun."""


class Interruption:
    """Turns the signals that ask a process to leave into KeyboardInterrupt, put off while captions are in flight."""

    def __init__(self) -> None:
        self._postpones = False
        self._first_signal = 0.0
        self.requested = False

    def install(self) -> None:
        """Take the signals over; from the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, self._on_signal)

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """While this lasts, a first signal only sets `requested`.

        Raises:
            KeyboardInterrupt: at the end of the block, if there was one; within it, at a second signal,
                or GRACE_SECONDS after the first.
        """
        self._postpones = True
        try:
            yield
        finally:
            self._postpones = False
            if self.requested:
                signal.setitimer(signal.ITIMER_REAL, 0)
        if self.requested:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, _: object) -> None:
        now, is_first = time.monotonic(), not self.requested
        if is_first:
            self.requested, self._first_signal = True, now
        elif number != signal.SIGALRM and now - self._first_signal < ECHO_SECONDS:
            return
        if not (is_first and self._postpones):
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        logger.info(
            "%s: finishing the captions in flight, for at most %g s", signal.Signals(number).name, GRACE_SECONDS
        )


interruption = Interruption()
"""The process's own."""
