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
"""The deadline is moved once in so many seconds at most."""
_NONE = 0.0
_STDERR = 2


class ProgressWatch:
    """When a worker last made progress. Loading, compiling and waiting for other ranks are paused times.

    Made before the supervisor starts its worker, it is shared by the two.

    enforces: end this process at the deadline. Without it the watch only tells the time.
    """

    def __init__(self, enforces: bool = False) -> None:
        self._shared = mmap.mmap(-1, 8)
        self._enforces = enforces
        self.timeout = float("inf")
        """Seconds that a worker may be without progress."""
        self._last: float | None = None

    def progress(self) -> None:
        """Note that something was done: a step on the device, a clip loaded, a result in the journal."""
        now = time.monotonic()
        if self._last is not None and now - self._last < _EXACTLY:
            return
        self._last = now
        if self._enforces and self.timeout < float("inf"):
            self._set_deadline(now + self.timeout)
            # A thread in C, which needs no lock of the interpreter.
            faulthandler.dump_traceback_later(self.timeout, exit=True, file=_STDERR)

    def pause(self) -> None:
        """Until the next progress, no time counts."""
        if self._last is not None and self._enforces:
            faulthandler.cancel_dump_traceback_later()
            self._set_deadline(_NONE)
        self._last = None

    def stalled(self) -> tuple[float, float] | None:
        """Seconds since the last progress, and how many are allowed; None while paused."""
        last = self._last
        return None if last is None or self.timeout == float("inf") else (time.monotonic() - last, self.timeout)

    def overdue(self) -> float:
        """Seconds since the deadline, as the supervisor sees it; 0 before it."""
        deadline = struct.unpack("d", self._shared[:8])[0]
        return 0.0 if deadline == _NONE else max(0.0, time.monotonic() - deadline)

    def _set_deadline(self, deadline: float) -> None:
        self._shared[:8] = struct.pack("d", deadline)
