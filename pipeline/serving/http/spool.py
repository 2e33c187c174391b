"""The private folder for media that clients send, and the files of each question in it. Knows no format."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from .bodies import ByteBudget, Share

_PREFIX = "captioning-"
_LOCK = "lock"


class Spool:
    """A folder that only this user can read. limit: bytes of all files in it.

    It is removed by `close`, and when the process ends by itself. One of a process that was killed is removed by the
    next server: a lock says whether its process lives.
    """

    def __init__(self, limit: int) -> None:
        _remove_left(Path(tempfile.gettempdir()))
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True)
        self._lock = _locked(Path(self._folder.name))
        self.path.mkdir(mode=0o700)
        self._numbers = itertools.count(1)
        self.budget = ByteBudget(limit, "the media of the questions")

    @property
    def path(self) -> Path:
        """The folder with the folders of the questions."""
        return Path(self._folder.name) / "media"

    def open(self) -> QuestionFiles:
        """A place for the files of one question."""
        return QuestionFiles(self.path / str(next(self._numbers)), self.budget.share())

    def close(self) -> None:
        self._folder.cleanup()
        self._lock.close()


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


def _locked(folder: Path) -> BinaryIO:
    """The lock of a folder, held until it is closed. It gets its name when it is held."""
    file = open(folder / f"{_LOCK}.new", "xb", opener=_private)  # noqa: SIM115 - held
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.rename(file.name, folder / _LOCK)
    return file


def _remove_left(parent: Path) -> None:
    """Remove the folders of this user's servers that were killed."""
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with open(os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC), "rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it has no lock, or its server lives
            continue


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
