"""A thread that waits for the disk, so that the thread that writes a file does not have to.

Knows nothing about the file and its records: the caller passes the function that syncs it.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable

from ..process.errors import RunError

logger = logging.getLogger(__name__)

SYNC_SECONDS = 2.0
"""Minimum time between two syncs, because a sync takes long on network file systems."""
STALL_SECONDS = 60.0
"""If the disk has confirmed nothing for this long, `block_while_stalled` blocks the writer."""
_CLOSE_SECONDS = 1.0
"""Time limit for the end of the thread: a disk that never answers must not delay the end of the process."""


class DiskSync:
    """Calls `sync` on a thread, at most once in SYNC_SECONDS, while there is written data that is not yet on disk.

    sync: a method that returns when everything written before the call is on disk, or raises RunError. Its object is
        not kept alive: when nothing else refers to it, the thread ends. The thread also ends with the interpreter.
    what: name of the written file, for messages.

    The first error of `sync` is final, and every later call raises it as RunError. After a failed fsync the kernel may
    treat lost data as written, so a later success would prove nothing.
    """

    def __init__(self, sync: Callable[[], None], what: str) -> None:
        self._sync = weakref.WeakMethod(sync)
        self._what = what
        self._changed = threading.Condition()  # guards all fields below
        self._written = self._confirmed = 0
        self._is_dirty = False  # something was written since the last sync began
        self._unconfirmed_since: float | None = None
        self._is_urgent = False
        self._begun = self._ended = 0  # how many syncs have begun, have ended
        self._last_end = time.monotonic()
        self._error: str | None = None
        self._is_closed = False
        # A daemon thread: a disk that never answers must not delay the end of the process.
        self._thread = threading.Thread(target=self._run, name=f"sync of {what}", daemon=True)
        self._thread.start()
        weakref.finalize(sync.__self__, self.close)  # type: ignore[attr-defined]

    @property
    def confirmed(self) -> int:
        """The sum of the counts passed to `record_write` whose data is on disk."""
        with self._changed:
            return self._confirmed

    def record_write(self, count: int = 0) -> None:
        """Record that data was written, which adds `count` to `confirmed` when it is on disk. Does not block."""
        with self._changed:
            self._written += count
            self._is_dirty = True
            if self._unconfirmed_since is None:
                self._unconfirmed_since = time.monotonic()
                self._changed.notify_all()
            self._raise_error()

    def block_while_stalled(self) -> None:
        """If the disk has confirmed nothing for STALL_SECONDS, wait until it does; otherwise return immediately."""
        with self._changed:
            if self._is_stalled():
                logger.warning("the disk has not confirmed %s for %g s; waiting for it", self._what, STALL_SECONDS)
                self._changed.wait_for(lambda: self._is_over() or not self._is_stalled())
            self._raise_error()

    def wait(self) -> None:
        """Wait until everything written so far is on disk."""
        with self._changed:
            goal = self._begun + 1  # a sync that is running may have begun before the last write
            self._is_urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_over() or self._ended >= goal)
            self._raise_error()
            assert self._ended >= goal, "closed"

    def close(self) -> None:
        """End the thread without another sync."""
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
                    self._sync_once()
            self._changed.notify_all()

    def _pause(self) -> float | None:
        """Seconds until the next sync; None while there is nothing to sync."""
        if self._is_urgent:
            return 0.0
        return self._last_end + SYNC_SECONDS - time.monotonic() if self._is_dirty else None

    def _sync_once(self) -> None:
        """Call `sync` with the lock released, then store its outcome."""
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
        """Call `sync`; returns the error message, or None.

        Not the exception itself, which would keep the object of `sync` alive.
        """
        sync = self._sync()
        if sync is None:  # its object has been deleted
            self._is_closed = True
            return None
        try:
            sync()
        except RunError as error:
            return str(error)
        except Exception as error:  # any error must reach the writer
            logger.exception("the thread that syncs %s failed", self._what)
            return f"can't sync {self._what}: {type(error).__name__}: {error}"
        return None
