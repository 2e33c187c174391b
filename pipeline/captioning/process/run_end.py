"""A mark that the run of a launcher has ended in order, for msrun's scheduler on the same host.

The scheduler fails if a worker's process crashes while it shuts down, although everything is written. It can't know how
the run has ended: it only forms the cluster.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import psutil

SCHEDULER_ROLE = "MS_SCHED"
"""The value of MS_ROLE in the environment of msrun's scheduler."""


class RunEnd:
    """The mark of one run. launcher: process id of the launcher, which all its processes have as their parent."""

    def __init__(self, launcher: int) -> None:
        self._launcher, begin, port = launcher, "", os.environ.get("MS_SCHED_PORT", "")
        with contextlib.suppress(psutil.Error):
            begin = f"{psutil.Process(launcher).create_time():.2f}"
        self._path = Path(tempfile.gettempdir()) / f"captioning-{os.getuid()}-{launcher}-{begin}-{port}.ended"

    def mark(self) -> None:
        """Record that the run has ended with exit code 0, if its scheduler still runs, which removes the mark."""
        with contextlib.suppress(OSError, psutil.Error):  # the mark only prevents an exit code that is wrong
            siblings = psutil.Process(self._launcher).children()
            if any(_is_scheduler(process) for process in siblings):
                self._path.touch()

    @property
    def is_marked(self) -> bool:
        return self._path.exists()

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _is_scheduler(process: psutil.Process) -> bool:
    try:
        return process.environ().get("MS_ROLE") == SCHEDULER_ROLE
    except psutil.Error:
        return False
