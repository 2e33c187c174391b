"""The temporary file that a clip is downloaded into. The worker and its decoding process both use this file.

The file has no name: the kernel frees it when the last process that has it open ends, for any reason. So a kill leaves
nothing behind. It is in the folder for temporary files (TMPDIR), because a clip may be larger than the memory.
"""

from __future__ import annotations

import os
import re
import tempfile

_PATH = re.compile(r"/proc/self/fd/\d+")


class DownloadFile:
    """A file for one clip at a time.

    fd: an open file without a name, which this object then owns; None creates a new one.

    Raises:
        OSError: the folder for temporary files can't be used.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        self.fd = fd

    @property
    def path(self) -> str:
        """The path with which the decoding process opens the file. It has no suffix."""
        return f"/proc/self/fd/{self.fd}"

    @staticmethod
    def without_path(message: str) -> str:
        """A message of a decoder with words for the path of such a file, which says nothing to a user."""
        return _PATH.sub("the downloaded file", message)

    def clear(self) -> None:
        """Give back the space on the disk."""
        os.ftruncate(self.fd, 0)

    def close(self) -> None:
        os.close(self.fd)
