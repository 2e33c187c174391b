"""The limits of a download, their defaults, and its outcome. Knows nothing about URLs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

MAX_DOWNLOAD = 2 * 2**30
"""Bytes."""
DOWNLOAD_TIMEOUT = 120.0
"""Seconds."""
_LONGEST_STALL, _LONGEST_STALL_OF_SILENT = 30.0, 5.0


@dataclass(frozen=True)
class DownloadLimits:
    """Limits of one download.

    max_bytes: size of the file; --max_download.
    timeout: seconds for the whole file, all attempts together; --download_timeout.
    attempts: the most attempts.
    longest_stall: the most seconds without data, whatever the timeout.
    same_host: redirects to another host are refused, see `redirects.py`.
    """

    max_bytes: int = MAX_DOWNLOAD
    timeout: float = DOWNLOAD_TIMEOUT
    attempts: int = sys.maxsize
    longest_stall: float = _LONGEST_STALL
    same_host: bool = False

    @property
    def stall(self) -> float:
        """Seconds without data after which an attempt ends: short enough for further attempts within `timeout`."""
        return min(self.longest_stall, self.timeout / 4)

    def of_one_attempt(self) -> DownloadLimits:
        """Limits for a server that seems to be down: one attempt, which ends soon if no data come."""
        return replace(self, attempts=1, longest_stall=_LONGEST_STALL_OF_SILENT)


@dataclass(frozen=True)
class Outcome:
    """The result of a download.

    problem: '' if the whole file was received, else why not: the failure of every attempt, without the URL and without
        credentials.
    may_pass: the server did not answer, or asked for patience, until the deadline; a later download may succeed.
    """

    problem: str = ""
    may_pass: bool = False
