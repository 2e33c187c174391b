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

The parts: `journal_lines` reads lines, `journal_report` makes a plan's report of them, `journal_lock` keeps other
processes off, `journal_sync` waits for the disk, `journal_id` tells folders apart.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from ..errors import RunError
from .files import atomic_write
from .journal_id import ID_FILE, folder_id
from .journal_lines import (
    FORGET_FAILURES,
    ROW,
    SESSION,
    add_records,
    as_line,
    damaged,
    drop_torn_line,
    reading,
    writing,
)
from .journal_lock import lock
from .journal_report import Fingerprint, JournalReport, report_journals
from .journal_sync import DiskSync
from .results import RowResult

logger = logging.getLogger(__name__)

_JOURNAL = re.compile(r"rank-\d{5,}\.jsonl")
_OURS = re.compile(rf"({_JOURNAL.pattern}|{ID_FILE})|\.({_JOURNAL.pattern}|{ID_FILE})\.\w+\.tmp")
"""Files in a journal folder that are made here; the second kind was being written when its process died."""

_RESTORE_ATTEMPTS = 10


def journal_folder(output: Path) -> Path:
    """Where the journals of a run that writes `output` are kept on every host."""
    return output.with_name(output.name + ".journal")


def journal_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.jsonl"


def journals(folder: Path) -> list[Path]:
    """The journals of all ranks in a folder; none if it is absent, or is being removed."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if _JOURNAL.fullmatch(name)]


def planned_at(folder: Path) -> float | None:
    """When a run first used the folder, in seconds since the epoch; None if it is not there."""
    try:
        return (folder / ID_FILE).stat().st_mtime
    except OSError:
        return None


def read_report(folder: Path) -> JournalReport:
    """Read all journals of `folder`; an absent folder reports nothing.

    Raises:
        RunError: a journal can't be read, or a line is damaged.
    """
    return report_journals(journals(folder))


def read_result_lines(path: Path) -> Iterator[bytes]:
    """Stream the results of one journal that count, as they were written, without line ends; a row may come twice.

    Raises:
        RunError: the journal can't be read, or a line that must be looked into is damaged.
    """
    with reading(path), path.open("rb") as lines:
        forgotten = max((n for n, line in enumerate(lines) if line.startswith(FORGET_FAILURES)), default=-1)
        lines.seek(0)
        for number, line in enumerate(lines):
            if not line.endswith(b"\n"):
                return  # torn: the worker died while writing it
            if line.startswith(ROW) and (number > forgotten or _has_caption(path, number, line)):
                yield line[:-1]


def _has_caption(path: Path, number: int, line: bytes) -> bool:
    try:
        return "caption" in json.loads(line)
    except ValueError as error:
        raise damaged(path, number + 1, error) from error


class Journal:
    """Appends one rank's results. Usable as a context manager; leaving it releases the rows in flight.

    No other process can open it until it is closed. What is written survives the death of this process at once. A
    thread brings it to disk, so that it survives the death of the host, within about `journal_sync.SYNC_SECONDS`. If
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
        `journal_sync.STALL_SECONDS`."""
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


def ask_to_forget_failures(folder: Path, rank: int) -> None:
    """Note that the failures of this run, on whatever rank and host, had another cause than the clips."""
    path = journal_path(folder, rank)
    if path.exists():
        add_records(path, {"forget_failures": True})


def asks_to_forget_failures(folder: Path) -> bool:
    """Whether one of the journals ends with such a note."""
    for path in journals(folder):
        with reading(path), path.open("rb") as lines:
            last = b""
            for line in lines:
                if line.startswith((SESSION, FORGET_FAILURES)):
                    last = line
        if last.startswith(FORGET_FAILURES):
            return True
    return False


def forget_failures(folder: Path) -> None:
    """Let all failed rows of a folder's journals be tried again."""
    for path in journals(folder):
        add_records(path, {"forget_failures": True}, {"session": "forgot failures"})


def remove_journals(folder: Path) -> None:
    """Remove the journals of a folder, but not the folder: other ranks may be about to use it.

    Raises:
        RunError: another run is writing to one, or it can't be removed.
    """
    for path in journals(folder):
        with writing(path), path.open("a", encoding="utf-8") as file:
            lock(file)
            path.unlink(missing_ok=True)


def remove_unused_folder(folder: Path) -> None:
    """Remove the folder if no run has written a journal there."""
    if not journals(folder):
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove what runs have made in the folder, if it is there, and the folder unless it holds other files."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # another rank was first
        return
    kept = []
    for name in names:
        if _OURS.fullmatch(name):
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError as error:
                kept.append(f"{name} ({error.strerror})")
        elif not name.startswith(".nfs"):  # a file that is still open somewhere, on a network file system
            kept.append(name)
    if kept:
        why = "holds files that no run has made or that can't be removed"
        logger.warning("the journal folder %s stays, because it %s: %s", folder, why, ", ".join(kept))
        return
    with contextlib.suppress(OSError):  # another rank was first, or a file is still open
        folder.rmdir()
