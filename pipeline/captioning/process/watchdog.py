"""Notices that a worker makes no progress, and ends it with the stacks of its threads in its log.

A device or a disk that hangs may keep the interpreter's lock for ever, so nothing here relies on Python code of the
process that hangs: a thread of the C library writes the stacks, and the supervisor reads a deadline in shared memory.
"""

from __future__ import annotations

import faulthandler
import mmap
import struct
import time

_EXACTLY = 1.0
"""The deadline is moved once in so many seconds at most, or once in a quarter of a short timeout."""
_NONE = 0.0
_STDERR = 2
_SOON = 0.001


class Watchdog:
    """When a worker last made progress. Loading and waiting for other ranks are paused times.

    Made before the supervisor starts its worker, it is shared by the two.

    enforces: end this process at the deadline. Without it the watchdog only tells the time.
    """

    def __init__(self, enforces: bool = False) -> None:
        self._shared = mmap.mmap(-1, 8)
        self._enforces = enforces
        self.timeout = float("inf")
        """Seconds that a worker may be without progress."""
        self._last: float | None = None
        self._allowed = 0.0

    def progress(self) -> None:
        """Note that something was done: a step on the device, a clip loaded, a result in the journal."""
        now = time.monotonic()
        is_new = self._last is None or self._allowed > self.timeout
        if not is_new and now - (self._last or 0.0) < min(_EXACTLY, self.timeout / 4):
            return
        self._last, self._allowed = now, self.timeout
        self._arm()

    def allow(self, seconds: float) -> None:
        """Let what is going on take so many seconds since the last progress, or the timeout if that is longer.

        Does nothing while paused.
        """
        if self._last is not None and seconds > self._allowed:
            self._allowed = seconds
            self._arm()

    def _arm(self) -> None:
        if self._enforces and self._last is not None and self._allowed < float("inf"):
            deadline = self._last + self._allowed
            self._set_deadline(deadline)
            # A thread in C, which needs no lock of the interpreter.
            left = max(_SOON, deadline - time.monotonic())
            faulthandler.dump_traceback_later(left, exit=True, file=_STDERR)

    def pause(self) -> None:
        """Until the next progress, no time counts."""
        if self._last is not None and self._enforces:
            faulthandler.cancel_dump_traceback_later()
            self._set_deadline(_NONE)
        self._last = None

    def stalled(self) -> tuple[float, float] | None:
        """Seconds since the last progress, and how many are allowed; None while paused."""
        last = self._last
        return None if last is None or self._allowed == float("inf") else (time.monotonic() - last, self._allowed)

    def overdue(self) -> float:
        """Seconds since the deadline, as the supervisor sees it; 0 before it."""
        deadline = struct.unpack("d", self._shared[:8])[0]
        return 0.0 if deadline == _NONE else max(0.0, time.monotonic() - deadline)

    def _set_deadline(self, deadline: float) -> None:
        self._shared[:8] = struct.pack("d", deadline)
