"""The progress of a run, of each of its ranks, and the state of the run that follows from it.

Knows nothing about files.
"""

from __future__ import annotations

import socket
from array import array
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FailureExample:
    """column: the column whose caption failed; empty if the row has a single caption, which needs no name."""

    row: int
    column: str
    message: str


@dataclass
class RankProgress:
    """Progress of one rank in the newest run.

    total: rows to caption in this run, on all ranks.
    ranks: number of ranks that keep a journal in this run.
    leased: rows that this rank has leased.
    done: rows of this rank that have a caption or a failure for each question.
    failed: rows of this rank that have at least one failure.
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


@dataclass
class RunProgress:
    """Progress of the newest run, over all ranks whose journals are in one folder.

    finished_before: rows that earlier runs finished, according to these journals.
    failed_before: rows that failed in earlier runs, according to these journals.
    failures: number of failures by stage; a row has one for each question without an answer.
    examples: for each stage, one failure.
    service: tokens, cost and answers of a service, added over the sessions in the journals; empty without a service.
    has_ranges: rows of the run's table are parts of their files.
    finished_rows: the numbers of the rows that have a result, in parts; a row may be there several times.
    """

    run: str = ""
    ranks: list[RankProgress] = field(default_factory=list)
    finished_before: int = 0
    failed_before: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, FailureExample] = field(default_factory=dict)
    service: dict[str, float] = field(default_factory=dict)
    has_ranges: bool = False
    finished_rows: list[array[int]] = field(default_factory=list)

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

    @property
    def working_ranks(self) -> list[RankProgress]:
        """The ranks that still have rows to caption."""
        return [rank for rank in self.ranks if not (rank.released or rank.is_waiting)]


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
        return "running", [rank.rank for rank in progress.working_ranks if now - rank.written_at > silent_seconds]
    return ("interrupted" if stopped_early or all(rank.lock_is_conclusive for rank in progress.ranks) else "silent"), []
