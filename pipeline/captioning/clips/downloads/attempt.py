"""One attempt to download a file: why it failed, and the limits while it runs. Knows nothing about kinds of URL."""

from __future__ import annotations

from dataclasses import dataclass

from fsspec.callbacks import Callback

from ..incomplete import is_incomplete

_TEMPORARY_STATUS = (408, 425, 429)


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    message: never contains a part of the URL other than its host.
    is_temporary: another attempt may succeed.
    pause: seconds that the server asks for before another attempt; 0.0 if it does not say.
    detail: the text of a library or of the server, which may quote the URL.
    """

    message: str
    is_temporary: bool = False
    pause: float = 0.0
    detail: str = ""


class Refused(Exception):
    """The downloaded file can't be used, and another attempt would give the same."""


class CutOff(Exception):
    """The connection ended before the whole file was received."""


class Progress(Callback):
    """Counts the bytes of an attempt while fsspec writes them.

    max_bytes: size at which the attempt ends. The file may exceed it by one chunk.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self.has_known_end = False
        """Whether the server marks the end of the file without announcing its size."""

    def relative_update(self, inc: int = 1) -> None:
        """Called by fsspec after each chunk of `inc` bytes.

        Raises:
            Refused: the file is too large, by its announced size or by what was received.
        """
        self.value += inc
        flag = f"more than --max_download {self._max_bytes:,} bytes"
        if self.size is not None and self.size > self._max_bytes:
            raise Refused(f"the file has {self.size:,} bytes, {flag}")
        if self.value > self._max_bytes:
            raise Refused(f"the file has {flag}")

    def check_complete(self, path: str) -> None:
        """
        Raises:
            CutOff: fewer bytes were received than announced; or no size was announced, and the structure of the file
                at `path` shows that its end is missing.
            Refused: the file is empty.
        """
        if self.size is not None and self.value < self.size:
            raise CutOff(self.received())
        if not self.value:
            raise Refused("the file is empty (0 bytes)")
        if self.size is None and not self.has_known_end and is_incomplete(path):
            raise CutOff(f"{self.received()} (the server announced no size, and the end of the video is missing)")

    def received(self) -> str:
        """What was received, for messages."""
        return f"{self.value:,} of {self.size:,} bytes" if self.size is not None else f"{self.value:,} bytes"


def is_temporary_status(status: int) -> bool:
    """Whether a later request may succeed after an answer with this HTTP status."""
    return status >= 500 or status in _TEMPORARY_STATUS
