"""What the journals tell of a run to someone who looks on: progress of every rank, failures, who is silent.

Reads what has been added since the last look, so that looking often costs little. Knows no terminal.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from .meta.journal import journals

WINDOW_SECONDS = 120.0
"""Speed is that of so many seconds, when looked at for so long."""


@dataclass
class RankView:
    """One rank of the newest run.

    rows: that the run has for it. done: of these, with a caption or a failure; failed: the latter.
    started, written: when its session began and when its journal was last written to, in seconds since the epoch.
    host: of its worker. is_open: whether a process on this host holds the journal open; None where that can't be told.
    released: nothing is in flight any more.
    """

    rank: int
    rows: int = 0
    done: int = 0
    failed: int = 0
    started: float = 0.0
    written: float = 0.0
    host: str = ""
    is_open: bool | None = None
    released: bool = False

    @property
    def is_finished(self) -> bool:
        return self.done >= self.rows

    def is_alive(self, now: float, silent_seconds: float) -> bool:
        """Whether its worker is at work, or waits for others to end theirs; a guess where that is on another host."""
        if self.is_open or (self.is_open is not None and self.host == socket.gethostname()):
            return bool(self.is_open)
        return now - self.written < silent_seconds and (self.is_finished or not self.released)


class _Follower:
    """Reads one journal as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file_id: tuple[int, int] | None = None
        self._reset()

    def _reset(self) -> None:
        self._position = 0
        self.run = ""
        self.view = RankView(int(self.path.stem.removeprefix("rank-")))
        self.stages: Counter[str] = Counter()
        self.examples: dict[str, tuple[int, str]] = {}
        self.finished_before = 0

    def look(self) -> None:
        """Read what is new.

        Raises:
            FileNotFoundError: the journal is gone, as at the end of a run.
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
            return
        record = json.loads(line)
        view = self.view
        view.released = "released" in record
        if "session" in record:
            self.finished_before += view.done
            self.run, view.rows, view.done, view.failed = record.get("run", ""), record.get("rows", 0), 0, 0
            self.stages, self.examples = Counter(), {}
            started, view.host = [*str(record["session"]).split(), "", ""][:2]
            view.started = _seconds(started)
        elif "row" in record:
            view.done += 1
            if "stage" in record:
                view.failed += 1
                self.stages[record["stage"]] += 1
                self.examples.setdefault(record["stage"], (record["row"], "; ".join(record["messages"])))


def _seconds(moment: str) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:  # a note that is no run, such as that failures were forgotten
        return 0.0


def _is_locked(about: os.stat_result) -> bool | None:
    """Whether some process on this host holds a lock on the file; asked without touching the lock."""
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            return any(f":{about.st_ino} " in line for line in locks if " FLOCK " in line)
    except OSError:
        return None


@dataclass
class RunView:
    """The newest run, over all ranks whose journals are in one folder.

    before: rows that earlier runs had finished, as far as these journals tell.
    failures: by stage; examples: a row and its message for each.
    """

    run: str = ""
    ranks: list[RankView] = field(default_factory=list)
    before: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(rank.rows for rank in self.ranks)

    @property
    def done(self) -> int:
        return sum(rank.done for rank in self.ranks)

    @property
    def failed(self) -> int:
        return sum(rank.failed for rank in self.ranks)


class JournalView:
    """Looks at the journals of one folder, again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._followers: dict[Path, _Follower] = {}
        self._last: RunView | None = None
        self._history: dict[int, deque[tuple[float, int]]] = {}

    def look(self) -> RunView | None:
        """The newest run; None if there is no journal."""
        is_being_removed = False
        for path in journals(self._folder):
            self._followers.setdefault(path, _Follower(path))
        for path, follower in list(self._followers.items()):
            try:
                follower.look()
            except FileNotFoundError:
                del self._followers[path]
                is_being_removed = True
        if not self._followers:
            return None
        if is_being_removed and self._last is not None:  # one after the other; what is left is not the run
            return self._last
        newest = max(follower.run for follower in self._followers.values())
        if self._last is None or newest != self._last.run:
            self._history.clear()
        view = self._last = RunView(newest)
        for _, follower in sorted(self._followers.items()):
            if follower.run != newest:
                view.before += follower.finished_before + follower.view.done
                continue
            view.before += follower.finished_before
            view.ranks.append(follower.view)
            view.failures.update(follower.stages)
            for stage, example in follower.examples.items():
                view.examples.setdefault(stage, example)
            history = self._history.setdefault(follower.view.rank, deque())
            history.append((time.time(), follower.view.done))
            while len(history) > 2 and history[-1][0] - history[0][0] > WINDOW_SECONDS:
                history.popleft()
        return view

    def clips_per_second(self, rank: RankView) -> float:
        """Of late, where it has been looked at for some seconds; otherwise since the rank's session began."""
        history = self._history.get(rank.rank, deque())
        if len(history) > 1 and history[-1][0] - history[0][0] >= 10 and history[-1][1] >= history[0][1]:
            return (history[-1][1] - history[0][1]) / (history[-1][0] - history[0][0])
        seconds = rank.written - rank.started
        return rank.done / seconds if seconds > 0 else 0.0


def state_of(view: RunView, now: float, silent_seconds: float) -> tuple[str, list[int]]:
    """`running`, `finishing` (all is captioned) or `interrupted`, and the ranks that have been silent for too long."""
    alive = any(rank.is_alive(now, silent_seconds) for rank in view.ranks)
    finished = all(rank.is_finished for rank in view.ranks)
    state = "interrupted" if not alive else "finishing" if finished else "running"
    silent = [rank.rank for rank in view.ranks if not rank.is_finished and now - rank.written > silent_seconds]
    return state, silent if state == "running" else []


def as_json(view: RunView, looker: JournalView, now: float, silent_seconds: float) -> Mapping[str, Any]:
    """Everything there is to tell, for programs."""
    state, silent = state_of(view, now, silent_seconds)
    rates = {rank.rank: looker.clips_per_second(rank) for rank in view.ranks}
    left = view.rows - view.done
    working = [rank for rank in view.ranks if not rank.is_finished]
    # The run ends with its slowest rank.
    seconds = [(rank.rows - rank.done) / rates[rank.rank] if rates[rank.rank] else None for rank in working]
    return {
        "state": state,
        "run": view.run,
        "rows": view.rows,
        "done": view.done,
        "captioned": view.done - view.failed,
        "failed": view.failed,
        "left": left,
        "finished_before": view.before,
        "clips_per_second": round(sum(rates.values()), 4),
        "seconds_left": None if None in seconds else round(max((s for s in seconds if s is not None), default=0.0)),
        "failures_by_stage": dict(view.failures.most_common()),
        "failure_examples": {stage: {"row": row, "message": text} for stage, (row, text) in view.examples.items()},
        "slowest_rank": min(working, key=lambda rank: rates[rank.rank]).rank if working else None,
        "silent_ranks": silent,
        "ranks": [
            {
                "rank": rank.rank,
                "rows": rank.rows,
                "done": rank.done,
                "failed": rank.failed,
                "clips_per_second": round(rates[rank.rank], 4),
                "seconds_since_written": round(now - rank.written, 1),
            }
            for rank in view.ranks
        ],
    }
