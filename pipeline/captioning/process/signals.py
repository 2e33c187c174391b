"""Handles Ctrl-C and SIGTERM: captions in flight get some seconds to end, unless a second signal arrives."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Time for the captions in flight: schedulers kill a process about 30 s after SIGTERM."""
ECHO_SECONDS = 2.0
"""A signal this soon after the first one is a copy of it: both the terminal and torchrun send Ctrl-C to a worker."""


class Interruption:
    """Raises KeyboardInterrupt on SIGINT and SIGTERM; `postponed` delays it while captions are in flight.

    requested: whether such a signal has arrived.
    """

    def __init__(self) -> None:
        self._postpones = False
        self._grace = GRACE_SECONDS
        self._first_signal = 0.0
        self.requested = False

    def install(self) -> None:
        """Install the signal handlers. Must be called from the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, self._on_signal)

    @contextlib.contextmanager
    def postponed(self, grace: float = GRACE_SECONDS) -> Iterator[None]:
        """Within this block, the first signal only sets `requested`.

        grace: seconds for the captions in flight.

        Raises:
            KeyboardInterrupt: at the end of the block if a signal has arrived; within the block at a second signal,
                or `grace` seconds after the first.
        """
        self._postpones, self._grace = True, grace
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
        signal.setitimer(signal.ITIMER_REAL, self._grace)
        logger.info("%s: finishing the captions in flight, for at most %g s", signal.Signals(number).name, self._grace)


interruption = Interruption()
"""The one instance of this process."""
