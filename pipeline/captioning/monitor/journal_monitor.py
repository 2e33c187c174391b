"""What the journals tell of a run to someone who looks on: progress of every rank, failures, who is silent.

Reads what has been added since the last look, so that looking often costs little. Knows no terminal.
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
    """One rank of the newest run.

    total, ranks: rows that the run has for all ranks, and how many of these keep a journal.
    leased: rows that this rank has taken.
    done: with a caption or a failure; failed: the latter.
    started: when it had loaded the model, or before that, when its session began; written: when its journal was last
    written to, both in seconds since the epoch.
    host: of its worker. is_locked: whether the worker could lock the journal.
    is_open: whether a process on this host holds the lock; None where that can't be told.
    released: nothing is in flight any more. waits: for the other ranks, before rows that come last.
    has_loaded: it captions.
    """

    rank: int
    total: int = 0
    ranks: int = 1
    leased: int = 0
    done: int = 0
    failed: int = 0
    started: float = 0.0
    written: float = 0.0
    host: str = ""
    is_locked: bool = False
    is_open: bool | None = None
    released: bool = False
    waits: bool = False
    has_loaded: bool = False

    @property
    def is_known(self) -> bool:
        """Whether it can be told, not only guessed, that its worker has ended or not."""
        return self.is_open is not None and self.is_locked and self.host == socket.gethostname()

    def is_alive(self, now: float, silent_seconds: float) -> bool:
        """Whether its worker is at work, or waits for others to end theirs; a guess if it is not known."""
        if self.is_open or self.is_known:
            return bool(self.is_open)
        return now - self.written < silent_seconds


class _JournalTail:
    """Reads one journal as it grows.

    before, failed_before: rows finished in earlier sessions, and those of them that failed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file_id: tuple[int, int] | None = None
        self._reset()

    def _reset(self) -> None:
        self._position = 0
        self._forgets_failures = False
        self.run = ""
        self.view = RankProgress(int(self.path.stem.removeprefix("rank-")))
        self.stages: Counter[str] = Counter()
        self.examples: dict[str, tuple[int, str]] = {}
        self.before = self.failed_before = 0

    def look(self) -> None:
        """Read what is new.

        Raises:
            OSError: the journal is gone, as at the end of a run.
        """
        with self.path.open("rb") as file:
            about = os.fstat(file.fileno())
            if (about.st_dev, about.st_ino) != self._file_id or about.st_size < self._position:
                self._reset()
                self._file_id = (about.st_dev, about.st_ino)
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # being written
                self._position += len(line)
                self._read(line)
            self.view.written = about.st_mtime
            self.view.is_open = _is_locked(about)

    def _read(self, line: bytes) -> None:
        if line.startswith(b'{"start":'):
            self.view.waits = False
            return
        if line.startswith(b'{"lease":'):
            self.view.leased += line.count(b",") + 1
            return
        try:
            record = json.loads(line)
        except ValueError:  # damaged: the next run says so, and how to mend it
            return
        view = self.view
        if "row" in record:
            view.done += 1
            if "stage" in record:
                view.failed += 1
                self.stages[record["stage"]] += 1
                self.examples.setdefault(record["stage"], (record["row"], "; ".join(record["messages"])))
        elif "run" in record:
            self.end_session()
            self.run = record["run"]
            started, host = record["session"].split()[:2]
            self.view = RankProgress(
                view.rank,
                record["rows"],
                record.get("ranks", 1),
                started=_seconds(started),
                host=host,
                is_locked=record["locked"],
            )
        elif "loaded" in record:
            view.started, view.has_loaded = _seconds(record["loaded"]), True
        elif "forget_failures" in record:
            self._forgets_failures = True
        view.released = view.released or "released" in record
        view.waits = "waiting" in record

    def end_session(self) -> None:
        """Count the session among the earlier ones; failures that another run is to try again are no more."""
        self.before += self.view.done
        self.failed_before += self.view.failed
        self.view = RankProgress(self.view.rank)
        if self._forgets_failures:
            self.before -= self.failed_before
            self.failed_before = 0
            self.stages, self.examples = Counter(), {}
            self._forgets_failures = False


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()


def _is_locked(about: os.stat_result) -> bool | None:
    """Whether some process on this host holds a lock on the file; asked without touching the lock."""
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            return any(f":{about.st_ino} " in line for line in locks if " FLOCK " in line)
    except OSError:
        return None


@dataclass
class RunProgress:
    """The newest run, over all ranks whose journals are in one folder.

    before, failed_before: rows that earlier runs had finished, as far as these journals tell, and those that failed.
    failures: by stage; examples: a row and its message for each.
    """

    run: str = ""
    ranks: list[RankProgress] = field(default_factory=list)
    before: int = 0
    failed_before: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def ranks_elsewhere(self) -> int:
        """Ranks whose journals are in other folders, on other hosts."""
        return max((rank.ranks - len(self.ranks) for rank in self.ranks), default=0)

    @property
    def left(self) -> int:
        """Rows of this run that no journal here has a result for; those of ranks elsewhere among them."""
        total = max((rank.total for rank in self.ranks), default=0)
        return max(0, total - sum(rank.done for rank in self.ranks))

    @property
    def rows(self) -> int:
        return self.done + self.left

    @property
    def done(self) -> int:
        return self.before + sum(rank.done for rank in self.ranks)

    @property
    def failed(self) -> int:
        return self.failed_before + sum(rank.failed for rank in self.ranks)


class JournalMonitor:
    """Looks at the journals of one folder, again and again.

    last: what it saw last, None before there was a journal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last: RunProgress | None = None
        self._followers: dict[Path, _JournalTail] = {}
        self._gone: set[Path] = set()
        self._speeds: dict[int, Speed] = {}

    def look(self) -> RunProgress | None:
        """The newest run; None if there is no journal."""
        self._read()
        if not self._followers:
            return None
        newest = max(follower.run for follower in self._followers.values())
        if self.last is not None and newest == self.last.run and self._gone:
            return self.last  # journals are being removed one by one; what is left of them is not the run
        if self.last is None or newest != self.last.run:
            self._speeds.clear()
            self._gone.clear()
        view = self.last = RunProgress(newest)
        for _, follower in sorted(self._followers.items()):
            if follower.run != newest:
                follower.end_session()
            view.before += follower.before
            view.failed_before += follower.failed_before
            view.failures.update(follower.stages)
            for stage, example in follower.examples.items():
                view.examples.setdefault(stage, example)
            if follower.run == newest:
                view.ranks.append(follower.view)
                if follower.view.has_loaded:
                    self._speeds.setdefault(follower.view.rank, Speed()).note(time.time(), follower.view.done)
        return view

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the folder is being removed
            for path in journals(self.folder):
                self._followers.setdefault(path, _JournalTail(path))
        for path, follower in list(self._followers.items()):
            try:
                follower.look()
                self._gone.discard(path)
            except OSError:
                del self._followers[path]
                self._gone.add(path)

    def clips_per_second(self, rank: RankProgress) -> float:
        """Of late, where it has been looked at for some seconds; otherwise since the rank's session began."""
        speed = self._speeds.get(rank.rank, Speed())
        if speed.seconds >= 10 and speed.per_second() >= 0:
            return speed.per_second()
        seconds = rank.written - rank.started
        return rank.done / seconds if seconds > 0 else 0.0


def state_of(view: RunProgress, now: float, silent_seconds: float) -> tuple[str, list[int]]:
    """What the run is at, and the ranks of a running one that have been silent for too long.

    `running`; `finishing`: all is captioned; `interrupted`: no worker is left; `silent`: none has written for long,
    but they may be at work on other hosts.
    """
    have_released = all(rank.released for rank in view.ranks)
    gave_up = have_released and view.left > 0 and not view.ranks_elsewhere
    if any(rank.is_alive(now, silent_seconds) for rank in view.ranks) and not gave_up:
        if have_released or not view.left:
            return "finishing", []
        late = [rank for rank in _working(view) if now - rank.written > silent_seconds]
        return "running", [rank.rank for rank in late]
    return ("interrupted" if gave_up or all(rank.is_known for rank in view.ranks) else "silent"), []


def _working(view: RunProgress) -> list[RankProgress]:
    return [rank for rank in view.ranks if not (rank.released or rank.waits)]


def as_json(view: RunProgress, looker: JournalMonitor, now: float, silent_seconds: float) -> dict[str, Any]:
    """Everything there is to tell, for programs; rows are those of all runs that the journals hold."""
    state, silent = state_of(view, now, silent_seconds)
    rates = {rank.rank: looker.clips_per_second(rank) for rank in view.ranks}
    working = _working(view)
    left = None if view.ranks_elsewhere else seconds_left(view.left, sum(rates.values()))
    return {
        "state": state,
        "run": view.run,
        "rows": view.rows,
        "done": view.done,
        "captioned": view.done - view.failed,
        "failed": view.failed,
        "left": view.left,
        "ranks_elsewhere": view.ranks_elsewhere,
        "finished_before": view.before,
        "clips_per_second": round(sum(rates.values()), 4),
        "seconds_left": None if left is None else round(left),
        "failures_by_stage": dict(view.failures.most_common()),
        "failure_examples": {stage: {"row": row, "message": text} for stage, (row, text) in view.examples.items()},
        "slowest_rank": min(working, key=lambda rank: rates[rank.rank]).rank if working else None,
        "silent_ranks": silent,
        "ranks": [
            {
                "rank": rank.rank,
                "leased": rank.leased,
                "done": rank.done,
                "failed": rank.failed,
                "clips_per_second": round(rates[rank.rank], 4),
                "seconds_since_written": round(now - rank.written, 1),
            }
            for rank in view.ranks
        ],
    }
