"""The limits of a download, and their defaults. Knows nothing about URLs."""

from __future__ import annotations

from dataclasses import dataclass

MAX_DOWNLOAD = 2 * 2**30
"""Bytes."""
DOWNLOAD_TIMEOUT = 120.0
"""Seconds."""
_LONGEST_STALL = 30.0


@dataclass(frozen=True)
class DownloadLimits:
    """Limits of one download.

    max_bytes: size of the file; --max_download.
    timeout: seconds for the whole file, all attempts together; --download_timeout.
    """

    max_bytes: int = MAX_DOWNLOAD
    timeout: float = DOWNLOAD_TIMEOUT

    @property
    def stall(self) -> float:
        """Seconds without data after which an attempt ends: short enough for further attempts within `timeout`."""
        return min(_LONGEST_STALL, self.timeout / 4)
