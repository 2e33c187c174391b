"""A thread that waits for the disk, so that whoever writes a file does not have to. Knows no file and no record."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable

from ..process.errors import RunError

logger = logging.getLogger(__name__)

SYNC_SECONDS = 2.0
"""Least time between two waits for the disk, which on network file systems take long."""
STALL_SECONDS = 60.0
"""A disk that has confirmed nothing for so long holds the writer back."""
_CLOSE_SECONDS = 1.0
"""How long to wait for the thread to end; a disk that never answers must not hold up the end of the process."""


class DiskSync:
    """Calls `sync` on a thread while something has been written that is not on disk, every SYNC_SECONDS at most.

    sync: a method that returns when everything written before the call is on disk, or raises RunError. Its object is
        not kept alive: when nothing else refers to it, the thread ends, as it does at the exit of the interpreter.
    what: the thing that is written, for messages.

    The first error of `sync` is final: after a failed fsync the kernel may call lost data clean, so that a later
    success would prove nothing. It is raised as RunError by every later call.
    """

    def __init__(self, sync: Callable[[], None], what: str) -> None:
        self._sync = weakref.WeakMethod(sync)
        self._what = what
        self._changed = threading.Condition()  # guards all below
        self._written = self._confirmed = 0
        self._is_dirty = False  # something was written since the last round began
        self._unconfirmed_since: float | None = None
        self._is_urgent = False
        self._begun = self._ended = 0  # rounds
        self._last_end = time.monotonic()
        self._error: str | None = None
        self._is_closed = False
        # A daemon, for the same reason as _CLOSE_SECONDS.
        self._thread = threading.Thread(target=self._run, name=f"sync of {what}", daemon=True)
        self._thread.start()
        weakref.finalize(sync.__self__, self.close)  # type: ignore[attr-defined]

    @property
    def confirmed(self) -> int:
        """The sum of the counts given to `wrote` that are on disk."""
        with self._changed:
            return self._confirmed

    def wrote(self, count: int = 0) -> None:
        """Note that something was written, and that it counts as `count`; returns at once."""
        with self._changed:
            self._written += count
            self._is_dirty = True
            if self._unconfirmed_since is None:
                self._unconfirmed_since = time.monotonic()
                self._changed.notify_all()
            self._raise_error()

    def hold_back(self) -> None:
        """Return at once, or if the disk has confirmed nothing for STALL_SECONDS, when it does."""
        with self._changed:
            if self._is_stalled():
                logger.warning("the disk has not confirmed %s for %g s; waiting for it", self._what, STALL_SECONDS)
                self._changed.wait_for(lambda: self._is_over() or not self._is_stalled())
            self._raise_error()

    def wait(self) -> None:
        """Return when everything written so far is on disk."""
        with self._changed:
            goal = self._begun + 1  # a round under way may have begun before the last write
            self._is_urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_over() or self._ended >= goal)
            self._raise_error()
            assert self._ended >= goal, "closed"

    def close(self) -> None:
        """End the thread without another round."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_SECONDS)

    def _is_over(self) -> bool:
        return self._is_closed or self._error is not None

    def _is_stalled(self) -> bool:
        since = self._unconfirmed_since
        return since is not None and time.monotonic() - since > STALL_SECONDS

    def _raise_error(self) -> None:
        if self._error is not None:
            raise RunError(self._error)

    def _run(self) -> None:
        with self._changed:
            while not self._is_over():
                pause = self._pause()
                if pause is None or pause > 0:
                    self._changed.wait(pause)
                else:
                    self._round()
            self._changed.notify_all()

    def _pause(self) -> float | None:
        """Seconds until a round is due; None while there is nothing to sync."""
        if self._is_urgent:
            return 0.0
        return self._last_end + SYNC_SECONDS - time.monotonic() if self._is_dirty else None

    def _round(self) -> None:
        written = self._written
        self._is_dirty = self._is_urgent = False
        self._begun += 1
        self._changed.release()
        try:
            error = self._try_sync()
        finally:
            self._changed.acquire()
        self._ended = self._begun
        self._last_end = time.monotonic()
        if error is not None:
            self._error = error
        else:
            self._confirmed = written
            self._unconfirmed_since = self._last_end if self._is_dirty else None
        self._changed.notify_all()

    def _try_sync(self) -> str | None:
        """Returns what went wrong; in words, because an exception would keep the object of `sync` alive."""
        sync = self._sync()
        if sync is None:  # nobody is left to hear of it
            self._is_closed = True
            return None
        try:
            sync()
        except RunError as error:
            return str(error)
        except Exception as error:  # whatever it is, the writer must hear of it
            logger.exception("the thread that syncs %s failed", self._what)
            return f"can't sync {self._what}: {type(error).__name__}: {error}"
        return None
