"""The id of a journal folder, by which hosts find out whether they share it."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from ..meta.files import atomic_write
from ..process.errors import RunError

ID_FILE = "id"
_WRITING_SECONDS = 1.0
"""An id file that is empty for longer is not being written any more."""


def folder_id(folder: Path) -> str:
    """A name for the folder that two hosts agree on only if they share it; creates the folder.

    Raises:
        RunError: the folder or the file can't be made, as on a full disk; an id is written whole or not at all.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"can't make the journal folder {folder}: {error}") from error
    path = folder / ID_FILE
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except OSError as error:
        raise RunError(f"can't make the journal folder {folder}: {path}: {error}; mend that and start again") from error


def _make(path: Path) -> None:
    """Write a new id, unless another rank is first."""
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
            _make_in_place(path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_in_place(path: Path) -> None:
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
    deadline = time.monotonic() + _WRITING_SECONDS
    while True:
        with path.open(encoding="ascii", errors="replace") as file:
            found = file.read()
            about = os.fstat(file.fileno())
        if found:
            return found
        if time.time() - about.st_mtime > _WRITING_SECONDS or time.monotonic() > deadline:
            # Left empty on a full disk. What replaces it follows from the empty file, so that ranks that mend it
            # at the same time agree.
            mended = f"{about.st_ino:x}-{about.st_mtime_ns:x}"
            with atomic_write(path) as temporary:
                temporary.write_text(mended, encoding="ascii")
            return mended
        time.sleep(0.05)
