"""The exit code of a worker whose run has ended, in memory that it shares with its supervisor.

A framework's libraries may crash while the process shuts down, after everything is written. So the worker reports its
exit code before that.
"""

from __future__ import annotations

import mmap

_NOT_REPORTED = 255


class ExitReport:
    """Create it before the supervisor starts its child: the two processes then share it."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)
        self._shared[0] = _NOT_REPORTED

    def report(self, exit_code: int) -> None:
        """Report that the run has ended, with an exit code from 0 to 254."""
        self._shared[0] = exit_code

    @property
    def exit_code(self) -> int | None:
        """The reported exit code; None while the run has not ended."""
        return None if self._shared[0] == _NOT_REPORTED else self._shared[0]
