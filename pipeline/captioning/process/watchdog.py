"""Ends a worker that makes no progress, and writes the stacks of its threads to its log.

A device or a disk that hangs may hold Python's global interpreter lock forever. So nothing here relies on Python code
of the process that hangs: a thread of the C library writes the stacks, and the supervisor reads a deadline in shared
memory.
"""

from __future__ import annotations

import faulthandler
import mmap
import struct
import time

_UPDATE_SECONDS = 1.0
"""Progress moves the deadline at most once in this time, or once in a quarter of a short timeout."""
_NO_DEADLINE = 0.0
_STDERR = 2
_MIN_DELAY = 0.001


class Watchdog:
    """Measures the time since a worker's last progress. Paused while it loads or waits for other ranks.

    Create it before the supervisor starts its child: the two processes then share the deadline.

    enforces: end this process at the deadline. Otherwise the watchdog only measures.
    timeout: seconds that a worker may run without progress.
    """

    def __init__(self, enforces: bool = False) -> None:
        self._shared = mmap.mmap(-1, 8)
        self._enforces = enforces
        self.timeout = float("inf")
        self._last: float | None = None
        self._allowed = 0.0

    def progress(self) -> None:
        """Record progress: a step on the device, a loaded clip, a result in the journal. Ends a pause."""
        now = time.monotonic()
        must_update = self._last is None or self._allowed > self.timeout
        if not must_update and now - (self._last or 0.0) < min(_UPDATE_SECONDS, self.timeout / 4):
            return
        self._last, self._allowed = now, self.timeout
        self._arm()

    def allow(self, seconds: float) -> None:
        """Allow `seconds` between the last progress and the next one, or the timeout if that is longer.

        Does nothing while paused.
        """
        if self._last is not None and seconds > self._allowed:
            self._allowed = seconds
            self._arm()

    def _arm(self) -> None:
        if self._enforces and self._last is not None and self._allowed < float("inf"):
            deadline = self._last + self._allowed
            self._set_deadline(deadline)
            # This starts a thread in C, which does not need the global interpreter lock.
            delay = max(_MIN_DELAY, deadline - time.monotonic())
            faulthandler.dump_traceback_later(delay, exit=True, file=_STDERR)

    def pause(self) -> None:
        """Stop measuring until the next progress."""
        if self._last is not None and self._enforces:
            faulthandler.cancel_dump_traceback_later()
            self._set_deadline(_NO_DEADLINE)
        self._last = None

    def since_progress(self) -> tuple[float, float] | None:
        """Seconds since the last progress, and seconds allowed; None while paused, and if no timeout is set."""
        last = self._last
        return None if last is None or self._allowed == float("inf") else (time.monotonic() - last, self._allowed)

    def overdue(self) -> float:
        """Seconds since the deadline, read from shared memory by the supervisor; 0 before the deadline."""
        deadline = struct.unpack("d", self._shared[:8])[0]
        return 0.0 if deadline == _NO_DEADLINE else max(0.0, time.monotonic() - deadline)

    def _set_deadline(self, deadline: float) -> None:
        self._shared[:8] = struct.pack("d", deadline)
