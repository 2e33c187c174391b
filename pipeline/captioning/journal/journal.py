"""Writes the journal of one rank: records every finished row immediately, so that an interrupted run can be resumed.

Each rank appends to `rank-NNNNN.jsonl` in a folder next to the output. A line is one of

    {"fingerprint": {...}}            the first line: everything that the captions depend on
    {"session": "...", "run": ..., "rows": ..., "ranks": ..., "locked": ...}   a session begins
    {"loaded": "..."}                 the model is loaded; the rank captions from this time (UTC) on
    {"lease": [rows]}                 these rows were leased to this rank
    {"start": [rows]}                 these rows are in flight now; with "retry": true in a retry
    {"row": ..., ...}                 a finished row (`RowResult`)
    {"waiting": true}                 the rank waits for all other ranks before the isolated rows
    {"usage": {...}}                  tokens and cost of a service so far, in this session
    {"released": true}                the worker has ended the session itself: no row is in flight any more
    {"forget_failures": true}         the failures so far do not count: the clips were not their cause

`session` holds the time of its start, the host and the process id, separated by spaces. `run` is the name of the run,
`rows` the number of rows that the run has to caption on all ranks, `ranks` the number of ranks that keep a journal,
`locked` whether the file system has locks. If a session ends without `released`, its worker has died, and its rows in
flight were in flight at that death. A last line without a line end was being written when the worker died; it is
dropped. `loaded`, `lease` and `usage` are for `progress`; no plan and no result depends on them. `usage` holds
`prompt_tokens`, `completion_tokens`, `answers` and, if the prices are known, `cost`; the last one of a session counts.

`reader` reads journals, `folder` handles all journals of a folder, `run_journals` those of all ranks and hosts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from ..meta.files import atomic_write
from ..meta.results import RowResult
from ..process.errors import RunError
from .disk_sync import DiskSync
from .folder import journal_path
from .folder_id import folder_id
from .lines import as_line, drop_incomplete_line, writing
from .lock import lock
from .reader import Fingerprint

logger = logging.getLogger(__name__)

_RESTORE_ATTEMPTS = 10


class Journal:
    """The journal of one rank, open for appending. A context manager, which calls `release` and closes the file.

    No other process can open the journal until it is closed. A record that is written survives the death of this
    process. A thread syncs the file, so that after about `disk_sync.SYNC_SECONDS` the record also survives the death of
    the host. If the sync fails, every later call raises RunError.

    run, rows, ranks: see the session record; they are for `progress`.

    Raises:
        RunError: another process has the journal open, or it can't be written.
    """

    def __init__(
        self, folder: Path, rank: int, fingerprint: Fingerprint, run: str = "", rows: int = 0, ranks: int = 1
    ) -> None:
        self.path = journal_path(folder, rank)
        folder_id(folder)
        self._file_lock = threading.Lock()  # no write while the file is replaced
        with writing(self.path):
            self._file: IO[str] = self.path.open("a", encoding="utf-8", errors="replace")
            is_locked = lock(self._file)
            is_new = drop_incomplete_line(self.path) == 0
        self._disk = DiskSync(self._sync_file, f"the journal {self.path}")
        if is_new:
            self._append({"fingerprint": dict(fingerprint)})
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._is_released = False
        session = f"{started} {socket.gethostname()} {os.getpid()}"
        self._append({"session": session, "run": run, "rows": rows, "ranks": ranks, "locked": is_locked})
        self.sync()

    @property
    def durable(self) -> int:
        """Number of results of this session that are on disk."""
        return self._disk.confirmed

    def loaded(self) -> None:
        """Record that the model is loaded and this rank begins to caption."""
        self._append({"loaded": datetime.now(timezone.utc).isoformat(timespec="milliseconds")})

    def lease(self, rows: Sequence[int]) -> None:
        """Record that `rows` were leased to this rank."""
        self._append({"lease": list(rows)})

    def start(self, rows: Iterable[int], retry: bool = False) -> None:
        """Record that `rows` are in flight. retry: they were in flight when a worker died."""
        self._append({"start": list(rows), **({"retry": True} if retry else {})})

    def finish(self, results: Sequence[RowResult]) -> None:
        """Record results; `durable` counts them when they are on disk.

        Blocks only if the disk has confirmed nothing for `disk_sync.STALL_SECONDS`, until it does.
        """
        if not results:
            return
        self._write((result.to_json() + "\n" for result in results), len(results))
        self._disk.block_while_stalled()

    def record_usage(self, figures: Mapping[str, float]) -> None:
        """Record the tokens and the cost of a service since the session began: not those of earlier sessions."""
        self._append({"usage": dict(figures)})

    def record_waiting(self) -> None:
        """Record that this rank waits for all other ranks before the isolated rows; returns when this is on disk."""
        self._append({"waiting": True})
        self.sync()

    def sync(self) -> None:
        """Wait until everything written so far is on disk."""
        self._disk.wait()

    def release(self) -> None:
        """Record that no row is in flight any more, as the last record of the session; returns when this is on disk."""
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
        self._disk.record_write(results)

    def _sync_file(self) -> None:
        """Sync the file. Called by the thread of `_disk` only, which is the only one that replaces the file."""
        with writing(self.path):
            with self._file_lock:
                if self._file.closed:
                    return
                self._restore_if_removed()
                descriptor = self._file.fileno()
            os.fsync(descriptor)

    def _restore_if_removed(self) -> None:
        """Write the journal again if it has been removed: its contents exist as long as the file is open."""
        if os.fstat(self._file.fileno()).st_nlink:
            return
        logger.warning("journal %s was removed while the run was writing to it; writing it again", self.path)
        for attempts_left in reversed(range(_RESTORE_ATTEMPTS)):
            try:
                self._restore()
                return
            except (OSError, RunError):
                if not attempts_left:
                    raise
                time.sleep(0.1)  # the process that removes the folder may not have finished

    def _restore(self) -> None:
        """Copy the removed file, which is still open, to its path and continue with the copy."""
        folder_id(self.path.parent)
        with atomic_write(self.path) as temporary, open(f"/proc/self/fd/{self._file.fileno()}", "rb") as removed:
            # Opened before it is filled and renamed: if it is removed again, its contents still exist.
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
            with contextlib.suppress(OSError):  # closing writes again what could not be written above
                self._file.close()
