"""Reads the state of a run from its journals: progress of every rank, failures, silent ranks.

Each poll reads only the lines that were added since the previous poll, so frequent polls cost little. Knows nothing
about terminals.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..journal.folder import journals
from .speed import Speed, seconds_left


@dataclass
class RankProgress:
    """Progress of one rank in the newest run.

    total: rows to caption in this run, on all ranks.
    ranks: number of ranks that keep a journal in this run.
    leased: rows that this rank has leased.
    done: rows of this rank that have a caption or a failure.
    failed: rows of this rank that have a failure.
    started_at: when the model was loaded; before that, when the session began. Seconds since the epoch.
    written_at: when the journal was last written. Seconds since the epoch.
    host: the host of the worker.
    took_lock: whether the worker could lock the journal.
    lock_is_held: whether a process on this host holds the lock; None if this can't be determined.
    released: whether the worker has recorded that no row is in flight any more.
    is_waiting: whether the rank waits for the other ranks before the last rows.
    has_loaded: whether the model is loaded.
    """

    rank: int
    total: int = 0
    ranks: int = 1
    leased: int = 0
    done: int = 0
    failed: int = 0
    started_at: float = 0.0
    written_at: float = 0.0
    host: str = ""
    took_lock: bool = False
    lock_is_held: bool | None = None
    released: bool = False
    is_waiting: bool = False
    has_loaded: bool = False

    @property
    def lock_is_conclusive(self) -> bool:
        """Whether the lock shows if the worker is alive. Without a conclusive lock, this is a guess."""
        return self.lock_is_held is not None and self.took_lock and self.host == socket.gethostname()

    def is_alive(self, now: float, silent_seconds: float) -> bool:
        """Whether the worker process is alive.

        If the lock is not conclusive, a worker counts as alive if it has written in the last `silent_seconds`.
        """
        if self.lock_is_held or self.lock_is_conclusive:
            return bool(self.lock_is_held)
        return now - self.written_at < silent_seconds


class _JournalTail:
    """Reads the new lines of one journal.

    run: the run of the newest session.
    progress: of the newest session.
    stages, examples: failures of all sessions by stage, and the first row and message of each stage.
    finished_before: rows finished in earlier sessions.
    failed_before: rows that failed in earlier sessions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file_id: tuple[int, int] | None = None
        self._reset()

    def _reset(self) -> None:
        self._position = 0
        self._forgets_failures = False
        self.run = ""
        self.progress = RankProgress(int(self.path.stem.removeprefix("rank-")))
        self.stages: Counter[str] = Counter()
        self.examples: dict[str, tuple[int, str]] = {}
        self.finished_before = self.failed_before = 0

    def read_new_lines(self) -> None:
        """Read the lines that were added since the last call.

        Raises:
            OSError: the journal does not exist any more; the end of a run removes it.
        """
        with self.path.open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) != self._file_id or status.st_size < self._position:
                self._reset()
                self._file_id = (status.st_dev, status.st_ino)
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # the worker is still writing this line
                self._position += len(line)
                self._read_record(line)
            self.progress.written_at = status.st_mtime
            self.progress.lock_is_held = _is_locked(status)

    def _read_record(self, line: bytes) -> None:
        if line.startswith(b'{"start":'):
            self.progress.is_waiting = False
            return
        if line.startswith(b'{"lease":'):
            self.progress.leased += line.count(b",") + 1
            return
        try:
            record = json.loads(line)
        except ValueError:  # a damaged line: the next run reports it, and how to fix it
            return
        progress = self.progress
        if "row" in record:
            progress.done += 1
            if "stage" in record:
                progress.failed += 1
                self.stages[record["stage"]] += 1
                self.examples.setdefault(record["stage"], (record["row"], "; ".join(record["messages"])))
        elif "run" in record:
            self.end_session()
            self.run = record["run"]
            started, host = record["session"].split()[:2]
            self.progress = RankProgress(
                progress.rank,
                record["rows"],
                record.get("ranks", 1),
                started_at=_seconds(started),
                host=host,
                took_lock=record["locked"],
            )
        elif "loaded" in record:
            progress.started_at, progress.has_loaded = _seconds(record["loaded"]), True
        elif "forget_failures" in record:
            self._forgets_failures = True
        progress.released = progress.released or "released" in record
        progress.is_waiting = "waiting" in record

    def end_session(self) -> None:
        """Add the session to the earlier ones. If its failures are to be forgotten, subtract all failures so far:
        the next run captions these rows again."""
        self.finished_before += self.progress.done
        self.failed_before += self.progress.failed
        self.progress = RankProgress(self.progress.rank)
        if self._forgets_failures:
            self.finished_before -= self.failed_before
            self.failed_before = 0
            self.stages, self.examples = Counter(), {}
            self._forgets_failures = False


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()


def _is_locked(status: os.stat_result) -> bool | None:
    """Whether a process on this host holds a lock on the file; None if the system has no `/proc/locks`.

    Does not try the lock itself: a worker that starts at that moment could then fail to lock its journal.
    """
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            return any(f":{status.st_ino} " in line for line in locks if " FLOCK " in line)
    except OSError:
        return None


@dataclass
class RunProgress:
    """Progress of the newest run, over all ranks whose journals are in one folder.

    finished_before: rows that earlier runs finished, according to these journals.
    failed_before: rows that failed in earlier runs, according to these journals.
    failures: number of failed rows by stage.
    examples: for each stage, one failed row and its message.
    """

    run: str = ""
    ranks: list[RankProgress] = field(default_factory=list)
    finished_before: int = 0
    failed_before: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def ranks_elsewhere(self) -> int:
        """Number of ranks whose journals are in other folders, on other hosts."""
        return max((rank.ranks - len(self.ranks) for rank in self.ranks), default=0)

    @property
    def remaining(self) -> int:
        """Rows of this run for which no journal in this folder has a result. Includes the rows of ranks elsewhere."""
        total = max((rank.total for rank in self.ranks), default=0)
        return max(0, total - sum(rank.done for rank in self.ranks))

    @property
    def rows(self) -> int:
        return self.done + self.remaining

    @property
    def done(self) -> int:
        return self.finished_before + sum(rank.done for rank in self.ranks)

    @property
    def failed(self) -> int:
        return self.failed_before + sum(rank.failed for rank in self.ranks)


class JournalMonitor:
    """Polls the journals of one folder.

    last: the result of the last poll that found journals; None before that.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last: RunProgress | None = None
        self._tails: dict[Path, _JournalTail] = {}
        self._removed: set[Path] = set()
        self._speeds: dict[int, Speed] = {}

    def poll(self) -> RunProgress | None:
        """Progress of the newest run; None if there is no journal."""
        self._read_journals()
        if not self._tails:
            return None
        newest = max(tail.run for tail in self._tails.values())
        if self.last is not None and newest == self.last.run and self._removed:
            return self.last  # the journals are being removed one by one: the remaining ones do not cover the run
        if self.last is None or newest != self.last.run:
            self._speeds.clear()
            self._removed.clear()
        progress = self.last = RunProgress(newest)
        for _, tail in sorted(self._tails.items()):
            if tail.run != newest:
                tail.end_session()
            progress.finished_before += tail.finished_before
            progress.failed_before += tail.failed_before
            progress.failures.update(tail.stages)
            for stage, example in tail.examples.items():
                progress.examples.setdefault(stage, example)
            if tail.run == newest:
                progress.ranks.append(tail.progress)
                if tail.progress.has_loaded:
                    self._speeds.setdefault(tail.progress.rank, Speed()).record(time.time(), tail.progress.done)
        return progress

    def _read_journals(self) -> None:
        with contextlib.suppress(OSError):  # the folder is being removed
            for path in journals(self.folder):
                self._tails.setdefault(path, _JournalTail(path))
        for path, tail in list(self._tails.items()):
            try:
                tail.read_new_lines()
                self._removed.discard(path)
            except OSError:
                del self._tails[path]
                self._removed.add(path)

    def clips_per_second(self, rank: RankProgress) -> float:
        """Recent speed of a rank if polls cover at least 10 s; otherwise its mean speed since `started_at`."""
        speed = self._speeds.get(rank.rank, Speed())
        if speed.seconds >= 10 and speed.per_second() >= 0:
            return speed.per_second()
        seconds = rank.written_at - rank.started_at
        return rank.done / seconds if seconds > 0 else 0.0


def state_of(progress: RunProgress, now: float, silent_seconds: float) -> tuple[str, list[int]]:
    """The state of the run, and, if it is running, the ranks that have not written for `silent_seconds`.

    `running`: workers are captioning.
    `finishing`: workers are alive, but no row remains for the ranks of this folder.
    `interrupted`: all workers have stopped, but the run has not ended.
    `silent`: no rank has written for `silent_seconds`. Workers may still be alive, for example on other hosts.
    """
    have_released = all(rank.released for rank in progress.ranks)
    stopped_early = have_released and progress.remaining > 0 and not progress.ranks_elsewhere
    if any(rank.is_alive(now, silent_seconds) for rank in progress.ranks) and not stopped_early:
        if have_released or not progress.remaining:
            return "finishing", []
        late = [rank for rank in _working_ranks(progress) if now - rank.written_at > silent_seconds]
        return "running", [rank.rank for rank in late]
    return ("interrupted" if stopped_early or all(rank.lock_is_conclusive for rank in progress.ranks) else "silent"), []


def _working_ranks(progress: RunProgress) -> list[RankProgress]:
    return [rank for rank in progress.ranks if not (rank.released or rank.is_waiting)]


def as_json(progress: RunProgress, monitor: JournalMonitor, now: float, silent_seconds: float) -> dict[str, Any]:
    """All figures of the run, for other programs. Rows are those of all runs in the journals."""
    state, silent = state_of(progress, now, silent_seconds)
    rates = {rank.rank: monitor.clips_per_second(rank) for rank in progress.ranks}
    working = _working_ranks(progress)
    left = None if progress.ranks_elsewhere else seconds_left(progress.remaining, sum(rates.values()))
    return {
        "state": state,
        "run": progress.run,
        "rows": progress.rows,
        "done": progress.done,
        "captioned": progress.done - progress.failed,
        "failed": progress.failed,
        "left": progress.remaining,
        "ranks_elsewhere": progress.ranks_elsewhere,
        "finished_before": progress.finished_before,
        "clips_per_second": round(sum(rates.values()), 4),
        "seconds_left": None if left is None else round(left),
        "failures_by_stage": dict(progress.failures.most_common()),
        "failure_examples": {stage: {"row": row, "message": text} for stage, (row, text) in progress.examples.items()},
        "slowest_rank": min(working, key=lambda rank: rates[rank.rank]).rank if working else None,
        "silent_ranks": silent,
        "ranks": [
            {
                "rank": rank.rank,
                "leased": rank.leased,
                "done": rank.done,
                "failed": rank.failed,
                "clips_per_second": round(rates[rank.rank], 4),
                "seconds_since_written": round(now - rank.written_at, 1),
            }
            for rank in progress.ranks
        ],
    }
