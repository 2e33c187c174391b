"""The private folder for media that clients send, and the files of each question in it. Knows no format."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .bodies import ByteBudget, Share


class Spool:
    """A folder that only this user can read. limit: bytes of all files in it.

    It is removed by `close`, and when the process ends by itself.
    """

    def __init__(self, limit: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="captioning-", ignore_cleanup_errors=True)
        self._numbers = itertools.count(1)
        self.budget = ByteBudget(limit, "the media of the questions")

    @property
    def path(self) -> Path:
        return Path(self._folder.name)

    def open(self) -> QuestionFiles:
        """A place for the files of one question."""
        return QuestionFiles(self.path / str(next(self._numbers)), self.budget.share())

    def close(self) -> None:
        self._folder.cleanup()


class QuestionFiles:
    """The files of one question, removed by `close`. `reserve` belongs to the event loop; `write` may be a thread's."""

    def __init__(self, folder: Path, share: Share) -> None:
        self._folder = folder
        self._share = share
        self._count = 0

    def reserve(self, size: int) -> None:
        """Take bytes of the spool's limit, before they are written.

        Raises:
            RequestError: the files of the other questions leave no room (503).
        """
        self._share.grow(size)

    def new_path(self, suffix: str = "") -> Path:
        """A path for a new file."""
        self._count += 1
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return self._folder / f"{self._count}{suffix}"

    def write(self, pieces: Iterable[bytes], suffix: str = "") -> Path:
        """Write a new file."""
        path = self.new_path(suffix)
        with open(path, "xb", opener=_private) as file:
            for piece in pieces:
                file.write(piece)
        return path

    def close(self) -> None:
        """Remove the files."""
        if self._count:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._share.release()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
