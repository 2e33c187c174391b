"""Journals: every finished row on disk at once, so that an interrupted run goes on where it stopped.

Each rank appends to `rank-NNNNN.jsonl` in a folder beside the output. A line is one of

    {"fingerprint": {...}}            the first line: what the captions depend on
    {"session": "...", "run": ..., "rows": ..., "locked": ...}   a run begins; its name, the rows it has for this rank
    {"start": [rows]}                 these rows are in flight now; with "retry": once more
    {"row": ..., ...}                 a finished row (`RowResult`)
    {"waiting": true}                 for all other ranks, before the rows that come last
    {"released": true}                the rows in flight were given up in good order
    {"forget_failures": true}         the failures so far do not count: their cause was not the clips

A row in flight when a session ends without `released` was in flight at a death of its worker.
A last line without an end was being written when the worker died; it is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from ..errors import RunError
from .files import atomic_write
from .results import RowResult

logger = logging.getLogger(__name__)

Fingerprint = Mapping[str, str]
_ID_FILE = "id"
_ROW, _SESSION, _FORGET_FAILURES = b'{"row":', b'{"session":', b'{"forget_failures":'
"""How such lines begin; a million of them need not all be parsed."""
SYNC_SECONDS = 2.0
"""Between two waits for the disk, which on network file systems take long."""


def journal_folder(output: Path) -> Path:
    """Where the journals of a run that writes `output` are kept on every host."""
    return output.with_name(output.name + ".journal")


@dataclass
class JournalReport:
    """What the journals of one folder say.

    fingerprints: the distinct fingerprints found.
    finished: rows with a result that counts.
    deaths: for rows without one, how often a worker died with the row in flight, retries apart.
    retried: rows without one that were in flight at a death while they were being retried in a batch.
    """

    fingerprints: list[Fingerprint] = field(default_factory=list)
    finished: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)
    retried: set[int] = field(default_factory=set)


def journal_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.jsonl"


def journals(folder: Path) -> list[Path]:
    """The journals of all ranks in a folder; none if it is absent."""
    return sorted(folder.glob("rank-*.jsonl"))


def planned_at(folder: Path) -> float | None:
    """When a run first used the folder, in seconds since the epoch; None if it is not there."""
    try:
        return (folder / _ID_FILE).stat().st_mtime
    except OSError:
        return None


def read_report(folder: Path) -> JournalReport:
    """Read all journals of `folder`; an absent folder reports nothing."""
    report = JournalReport()
    for path in journals(folder):
        _report_journal(path, report)
    for row in report.finished:
        report.deaths.pop(row, None)
    report.retried -= report.finished
    return report


def read_result_lines(path: Path) -> Iterator[bytes]:
    """Stream the results of one journal that count, as they were written, without line ends; a row may come twice."""
    with path.open("rb") as lines:
        forgotten = max((n for n, line in enumerate(lines) if line.startswith(_FORGET_FAILURES)), default=-1)
        lines.seek(0)
        for number, line in enumerate(lines):
            if not line.endswith(b"\n"):
                return  # torn: the worker died while writing it
            if line.startswith(_ROW) and (number > forgotten or "caption" in json.loads(line)):
                yield line[:-1]


def _report_journal(path: Path, report: JournalReport) -> None:
    in_flight: set[int] = set()
    in_retry: set[int] = set()
    failed: set[int] = set()
    for record in _records(path):
        if "fingerprint" in record:
            if record["fingerprint"] not in report.fingerprints:
                report.fingerprints.append(record["fingerprint"])
        elif "session" in record:
            report.deaths.update(in_flight)
            report.retried |= in_retry
            in_flight, in_retry = set(), set()
        elif "start" in record:
            (in_retry if record.get("retry") else in_flight).update(record["start"])
        elif "row" in record:
            in_flight.discard(record["row"])
            in_retry.discard(record["row"])
            (report.finished if "caption" in record else failed).add(record["row"])
        elif "released" in record:
            in_flight, in_retry = set(), set()
        elif "forget_failures" in record:
            failed = set()
    report.deaths.update(in_flight)
    report.retried |= in_retry
    report.finished |= failed


def _records(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return  # torn: the worker died while writing it
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise RunError(
                    f"journal {path}, line {number} is damaged ({error}); remove that line, or give --restart"
                ) from error


class Journal:
    """Appends one rank's results. Usable as a context manager; leaving it releases the rows in flight.

    No other process can open it until it is closed.

    run: name of the run, the same on all ranks; rows: what the run has for this rank. Both are for whoever looks on.
    """

    def __init__(self, folder: Path, rank: int, fingerprint: Fingerprint, run: str = "", rows: int = 0) -> None:
        self.path = journal_path(folder, rank)
        folder_id(folder)
        self._file: IO[str] = self.path.open("a", encoding="utf-8", errors="replace")
        is_locked = _lock(self._file)
        if _drop_torn_line(self.path) == 0:
            self._append({"fingerprint": dict(fingerprint)})
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._is_released = False
        session = f"{started} {socket.gethostname()} {os.getpid()}"
        self._append({"session": session, "run": run, "rows": rows, "locked": is_locked})
        self.sync()

    def start(self, rows: Iterable[int], retry: bool = False) -> None:
        """Note that `rows` are in flight, once more if `retry`. Survives the death of this process, not of the host."""
        with self._explained():
            self._append({"start": list(rows), **({"retry": True} if retry else {})})
            self._file.flush()

    def finish(self, results: Sequence[RowResult]) -> None:
        """Append results. They survive the death of this process at once, that of the host after
        SYNC_SECONDS or the next `sync`."""
        if not results:
            return
        with self._explained():
            self._file.writelines(result.to_json() + "\n" for result in results)
            self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def _append(self, record: dict) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def sync(self) -> None:
        """Bring everything to disk."""
        with self._explained():
            self._file.flush()
            self._restore_if_removed()
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _restore_if_removed(self) -> None:
        """Write the journal anew if someone has removed it: as long as it is open, nothing in it is lost."""
        if os.fstat(self._file.fileno()).st_nlink:
            return
        logger.warning("journal %s was removed while the run wrote to it; writing it anew", self.path)
        folder_id(self.path.parent)
        with atomic_write(self.path) as temporary:
            shutil.copyfile(f"/proc/self/fd/{self._file.fileno()}", temporary)
        self._file.close()
        self._file = self.path.open("a", encoding="utf-8", errors="replace")
        _lock(self._file)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"can't write the journal {self.path}: {error}; what it holds so far is safe: mend that"
            ) from error

    def __enter__(self) -> Journal:
        return self

    def wait(self) -> None:
        """Note that the rows to come are those for which other ranks are waited for."""
        self._append({"waiting": True})
        self.sync()

    def release(self) -> None:
        """Note that no row is in flight any more: the last that is written."""
        if not self._is_released:
            self._append({"released": True})
            self.sync()
            self._is_released = True

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            self.release()
        except RunError:
            if error is None:
                raise
        finally:
            with contextlib.suppress(OSError):  # of what could not be written above
                self._file.close()


def _drop_torn_line(path: Path) -> int:
    """Cut a last line without an end off; returns the size that is left, in bytes."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            begin = max(0, end - 65536)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            file.truncate(end)
        return end


def folder_id(folder: Path) -> str:
    """A name for the folder that two hosts agree on only if they share it; creates the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"can't make the journal folder {folder}: {error}") from error
    own = uuid.uuid4().hex
    name = folder / _ID_FILE
    with contextlib.suppress(FileExistsError), name.open("x", encoding="ascii") as file:
        file.write(own)
    deadline = time.monotonic() + 10
    while not (found := name.read_text(encoding="ascii")) and time.monotonic() < deadline:
        time.sleep(0.05)  # another rank has made it, but not yet written it
    return found


def ask_to_forget_failures(folder: Path, rank: int) -> None:
    """Note that the failures of this run, on whatever rank and host, had another cause than the clips."""
    path = journal_path(folder, rank)
    if path.exists():
        _append(path, {"forget_failures": True})


def asks_to_forget_failures(folder: Path) -> bool:
    """Whether one of the journals ends with such a note."""
    for path in journals(folder):
        with path.open("rb") as lines:
            last = b""
            for line in lines:
                if line.startswith((_SESSION, _FORGET_FAILURES)):
                    last = line
        if last.startswith(_FORGET_FAILURES):
            return True
    return False


def forget_failures(folder: Path) -> None:
    """Let all failed rows of a folder's journals be tried again."""
    for path in journals(folder):
        _append(path, {"forget_failures": True}, {"session": "forgot failures"})


def _append(path: Path, *records: dict) -> None:
    _drop_torn_line(path)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
        file.flush()
        os.fsync(file.fileno())


def _lock(file: IO[str]) -> bool:
    """Keep other processes off a journal for as long as it is open; False where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise RunError(
                f"another run is writing to the journal {file.name} ({_last_session(Path(file.name))}); "
                "wait for it, or end it (pkill -f caption finds workers that outlived their launcher)"
            ) from error
        return False  # there is none to respect
    return True


def _last_session(path: Path) -> str:
    """Who writes to a journal, in words."""
    sessions = [record["session"] for record in _records(path) if "session" in record]
    started, host, process = [*sessions[-1].split(), "?", "?"][:3] if sessions else ("?", "?", "?")
    return f"process {process} on {host}, since {started}"


def remove_journals(folder: Path) -> None:
    """Remove the journals of a folder, but not the folder: other ranks may be about to use it."""
    for path in journals(folder):
        with path.open("a", encoding="utf-8") as file:
            _lock(file)
            path.unlink(missing_ok=True)


def remove_unused_folder(folder: Path) -> None:
    """Remove the folder if no run has written a journal there."""
    if not journals(folder):
        with contextlib.suppress(OSError):
            (folder / _ID_FILE).unlink()
            folder.rmdir()


def remove_folder(folder: Path) -> None:
    """Remove the folder with its journals, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
