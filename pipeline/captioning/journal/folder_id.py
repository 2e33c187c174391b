"""The id of a journal folder: a file from which hosts learn whether they share the folder."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from ..meta.files import atomic_write
from ..process.errors import RunError

ID_FILE = "id"
_WRITING_SECONDS = 1.0
"""If an id file has been empty for longer than this, no process is writing it."""


def folder_id(folder: Path) -> str:
    """The id of the folder: two hosts get the same id only if they share the folder. Creates folder and id if needed.

    Raises:
        RunError: the folder or the id file can't be created, for example on a full disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"can't create the journal folder {folder}: {error}") from error
    path = folder / ID_FILE
    try:
        if not path.exists():
            _create(path)
        return _read(path)
    except OSError as error:
        raise RunError(
            f"can't create the journal folder {folder}: {path}: {error}; fix the cause of this error"
        ) from error


def _create(path: Path) -> None:
    """Write a new id, complete or not at all, unless another rank has written one."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("x", encoding="ascii") as file:
            file.write(uuid.uuid4().hex)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            _create_in_place(path)
    finally:
        temporary.unlink(missing_ok=True)


def _create_in_place(path: Path) -> None:
    """Like `_create`, but other ranks may see an empty file for a short time."""
    try:
        file = path.open("x", encoding="ascii")
    except FileExistsError:
        return
    try:
        with file:
            file.write(uuid.uuid4().hex)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _read(path: Path) -> str:
    """Read an id; replaces an id file that remained empty."""
    deadline = time.monotonic() + _WRITING_SECONDS
    while True:
        with path.open(encoding="ascii", errors="replace") as file:
            found = file.read()
            status = os.fstat(file.fileno())
        if found:
            return found
        if time.time() - status.st_mtime > _WRITING_SECONDS or time.monotonic() > deadline:
            # The disk was full when the file was written. The new id is derived from the empty file, so that ranks
            # that replace it at the same time agree.
            new_id = f"{status.st_ino:x}-{status.st_mtime_ns:x}"
            with atomic_write(path) as temporary:
                temporary.write_text(new_id, encoding="ascii")
            return new_id
        time.sleep(0.05)
