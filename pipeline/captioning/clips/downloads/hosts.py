"""Which web servers seem to be down. The threads of a loader share what they know. Knows nothing about connections.

Without this, every row of a dead server would be tried until --download_timeout: hours for a thousand rows.
"""

from __future__ import annotations

import threading
from collections import Counter

from .limits import DownloadLimits

FAILURES_OF_A_SILENT_HOST = 3
"""After so many rows in a row of one host failed until their deadline, its next rows get one short attempt each."""


class Hosts:
    """Counts the rows in a row that failed, for each host. Thread-safe."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._lock = threading.Lock()

    def limits(self, host: str, limits: DownloadLimits) -> DownloadLimits:
        """The limits of the next download from a host. limits: those of a host that answers."""
        with self._lock:
            is_silent = self._failures[host] >= FAILURES_OF_A_SILENT_HOST
        return limits.of_one_attempt() if is_silent else limits

    def record(self, host: str, has_failed: bool) -> bool:
        """Record a download. has_failed: for reasons that may pass. Returns whether the host now became silent."""
        with self._lock:
            self._failures[host] = self._failures[host] + 1 if has_failed else 0
            return self._failures[host] == FAILURES_OF_A_SILENT_HOST
