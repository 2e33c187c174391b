"""Journals: every finished row goes to disk as soon as it is finished, so that an interrupted run can be resumed.

Each rank appends to `rank-NNNNN.jsonl` in a folder beside the output. A line is one of

    {"fingerprint": {...}}            the first line: what the captions depend on
    {"session": "...", "run": ..., "rows": ..., "ranks": ..., "locked": ...}   a run begins: name, rows, ranks
    {"loaded": "..."}                 the model is loaded: from this time (UTC) on, the rank captions
    {"lease": [rows]}                 these rows were leased to this rank
    {"start": [rows]}                 these rows are in flight now; with "retry": once more
    {"row": ..., ...}                 a finished row (`RowResult`)
    {"waiting": true}                 for all other ranks, before the rows that come last
    {"released": true}                the rows in flight were given up in good order
    {"forget_failures": true}         the failures so far do not count: their cause was not the clips

The session names start, host and process. A row in flight when a session ends without `released` was in flight at a
death of its worker. A last line without an end was being written when the worker died; it is dropped. `loaded` and
`lease` are for `progress`; no plan and no result depends on them.

This file writes. `reader` reads journals, `folder` knows all journals of a run, `lines`, `lock`, `disk_sync` and
`folder_id` are what they share.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from ..meta.files import atomic_write
from ..meta.results import RowResult
from ..process.errors import RunError
from .disk_sync import DiskSync
from .folder import journal_path
from .folder_id import folder_id
from .lines import as_line, drop_torn_line, writing
from .lock import lock
from .reader import Fingerprint

logger = logging.getLogger(__name__)

_RESTORE_ATTEMPTS = 10


class Journal:
    """Appends one rank's results. Usable as a context manager; leaving it releases the rows in flight.

    No other process can open it until it is closed. What is written survives the death of this process at once. A
    thread brings it to disk, so that it survives the death of the host, within about `disk_sync.SYNC_SECONDS`. If
    that fails, every later call raises RunError.

    run: name of the run, the same on all ranks; rows: to be captioned in the run, on all ranks; ranks: how many keep a
    journal. These are for `progress`.

    Raises:
        RunError: another process has it open, or it can't be written.
    """

    def __init__(
        self, folder: Path, rank: int, fingerprint: Fingerprint, run: str = "", rows: int = 0, ranks: int = 1
    ) -> None:
        self.path = journal_path(folder, rank)
        folder_id(folder)
        self._file_lock = threading.Lock()  # of the file against being written while it is replaced
        with writing(self.path):
            self._file: IO[str] = self.path.open("a", encoding="utf-8", errors="replace")
            is_locked = lock(self._file)
            is_new = drop_torn_line(self.path) == 0
        self._disk = DiskSync(self._bring_to_disk, f"the journal {self.path}")
        if is_new:
            self._append({"fingerprint": dict(fingerprint)})
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._is_released = False
        session = f"{started} {socket.gethostname()} {os.getpid()}"
        self._append({"session": session, "run": run, "rows": rows, "ranks": ranks, "locked": is_locked})
        self.sync()

    @property
    def durable(self) -> int:
        """How many results of this session are on disk."""
        return self._disk.confirmed

    def loaded(self) -> None:
        """Note that the model is loaded: from now on this rank captions."""
        self._append({"loaded": datetime.now(timezone.utc).isoformat(timespec="milliseconds")})

    def lease(self, rows: Sequence[int]) -> None:
        """Note that `rows` were leased to this rank."""
        self._append({"lease": list(rows)})

    def start(self, rows: Iterable[int], retry: bool = False) -> None:
        """Note that `rows` are in flight, once more if `retry`."""
        self._append({"start": list(rows), **({"retry": True} if retry else {})})

    def finish(self, results: Sequence[RowResult]) -> None:
        """Append results; `durable` tells when they are on disk. Waits for the disk only if that has not answered for
        `disk_sync.STALL_SECONDS`."""
        if not results:
            return
        self._write((result.to_json() + "\n" for result in results), len(results))
        self._disk.hold_back()

    def wait(self) -> None:
        """Note that the rows to come are those for which other ranks are waited for."""
        self._append({"waiting": True})
        self.sync()

    def sync(self) -> None:
        """Return when everything so far is on disk."""
        self._disk.wait()

    def release(self) -> None:
        """Note that no row is in flight any more: the last that is written."""
        if not self._is_released:
            self._append({"released": True})
            self.sync()
            self._is_released = True

    def _append(self, record: dict) -> None:
        self._write([as_line(record)])

    def _write(self, lines: Iterable[str], results: int = 0) -> None:
        with self._file_lock, writing(self.path):
            self._file.writelines(lines)
            self._file.flush()
        self._disk.wrote(results)

    def _bring_to_disk(self) -> None:
        """Called by the thread of `_disk`, which alone replaces the file."""
        with writing(self.path):
            with self._file_lock:
                if self._file.closed:
                    return
                self._restore_if_removed()
                descriptor = self._file.fileno()
            os.fsync(descriptor)

    def _restore_if_removed(self) -> None:
        """Write the journal anew if someone has removed it: as long as it is open, nothing in it is lost."""
        if os.fstat(self._file.fileno()).st_nlink:
            return
        logger.warning("journal %s was removed while the run wrote to it; writing it anew", self.path)
        for left in reversed(range(_RESTORE_ATTEMPTS)):
            try:
                self._restore()
                return
            except (OSError, RunError):
                if not left:
                    raise
                time.sleep(0.1)  # whoever removes the folder may still be at it

    def _restore(self) -> None:
        folder_id(self.path.parent)
        with atomic_write(self.path) as temporary, open(f"/proc/self/fd/{self._file.fileno()}", "rb") as removed:
            # Opened before it is filled and has its name: if it is removed again, its content is still here.
            restored = temporary.open("a", encoding="utf-8", errors="replace")
            shutil.copyfileobj(removed, restored.buffer)
            restored.flush()
            lock(restored)
        self._file.close()
        self._file = restored

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self.release()
        except RunError:
            if error is None:
                raise
        finally:
            self._disk.close()
            with contextlib.suppress(OSError):  # of what could not be written above
                self._file.close()
