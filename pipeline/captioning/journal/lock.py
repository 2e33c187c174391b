"""The lock of a journal: the process that writes the journal holds it as long as the file is open."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from pathlib import Path
from typing import IO

from ..process.errors import RunError
from .lines import read_records


def lock(file: IO[str]) -> bool:
    """Lock a journal until the file is closed; returns False if the file system has no locks.

    Raises:
        RunError: another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise RunError(f"another run is writing to the journal {file.name} {_writer(Path(file.name))}") from error
        return False
    return True


def _writer(path: Path) -> str:
    """The process that writes to a journal and what to do about it, as text for a message."""
    sessions: list[object] = []
    with contextlib.suppress(RunError):  # a damaged line; the run that owns the journal reports it
        sessions += (record["session"] for _, record in read_records(path) if "session" in record)
    words = str(sessions[-1]).split() if sessions else []
    if len(words) != 3:  # it has not written its session record yet
        return "(its process id is not known yet); wait for it"
    started, host, process = words
    return f"(process {process} on {host}, since {started}); wait for it, or end it on {host} with: kill {process}"
