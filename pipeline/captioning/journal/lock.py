"""One writer for one journal: a lock that its process holds as long as the file is open."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from pathlib import Path
from typing import IO

from ..process.errors import RunError
from .lines import read_records


def lock(file: IO[str]) -> bool:
    """Keep other processes off a journal for as long as it is open; False where the file system has no locks.

    Raises:
        RunError: another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise RunError(f"another run is writing to the journal {file.name} {_writer(Path(file.name))}") from error
        return False  # there is none to respect
    return True


def _writer(path: Path) -> str:
    """Who writes to a journal, in words, and what to do about it."""
    sessions: list[object] = []
    with contextlib.suppress(RunError):  # of a damaged line: that is for its owner
        sessions += (record["session"] for _, record in read_records(path) if "session" in record)
    words = str(sessions[-1]).split() if sessions else []
    if len(words) != 3:  # it has not written its name yet
        return "(its name is not known yet); wait for it"
    started, host, process = words
    return f"(process {process} on {host}, since {started}); wait for it, or end it on {host} with: kill {process}"
