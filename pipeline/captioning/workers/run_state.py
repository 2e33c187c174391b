"""What rank 0 knows of all ranks: how far each has come, when it was last heard, and which rows nobody has yet.

A call takes the same time for any number of ranks, because rank 0 also feeds a device; all ranks are looked at once a
second. Knows no network.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .leases import Lease, RowPool

SILENCE_SECONDS = 600.0
"""A rank that has not been heard for so long counts as dead."""
STALL_GRACE_SECONDS = 120.0
"""A rank without progress is ended by its own supervisor; after this time more the run is given up."""
_REFRESH_SECONDS = 1.0
_MOST_NAMED = 8


@dataclass(frozen=True)
class RankStatus:
    """What a rank says of itself.

    stage: barriers that it has reached.
    counts: figures that are summed over the ranks.
    broken: why it gives up; empty otherwise.
    stalled: seconds since its last progress, and how many are allowed; None while it does not caption.
    """

    rank: int
    stage: int = 0
    counts: tuple[int, ...] = ()
    broken: str = ""
    stalled: tuple[float, float] | None = None

    def to_json(self) -> Any:
        return [self.rank, self.stage, self.counts, self.broken, self.stalled]

    @classmethod
    def from_json(cls, value: Any) -> RankStatus:
        rank, stage, counts, broken, stalled = value
        return cls(rank, stage, tuple(counts), broken, tuple(stalled) if stalled else None)


@dataclass(frozen=True)
class Snapshot:
    """The state of the run, as every rank sees it.

    version: changes with everything that a rank waits for.
    stage: barriers that all ranks have reached; waiting_for: some of the ranks that have not reached the next one.
    counts: summed over the ranks.
    broken, silent, stuck: ranks that give up with their messages, that are not heard, that make no progress.
    late: ranks whose progress is late but allowed, with seconds.
    exit_code: decided by rank 0; None before.
    """

    version: int = 0
    stage: int = 0
    waiting_for: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    broken: tuple[str, ...] = ()
    silent: tuple[int, ...] = ()
    stuck: tuple[int, ...] = ()
    late: tuple[tuple[int, int], ...] = ()
    exit_code: int | None = None

    def to_json(self) -> Any:
        return list(vars(self).values())

    @classmethod
    def from_json(cls, value: Any) -> Snapshot:
        version, stage, waiting_for, counts, broken, silent, stuck, late, exit_code = value
        pairs = tuple((rank, seconds) for rank, seconds in late)
        return cls(
            version,
            stage,
            tuple(waiting_for),
            tuple(counts),
            tuple(broken),
            tuple(silent),
            tuple(stuck),
            pairs,
            exit_code,
        )


class RunStateLike(Protocol):
    """The state of the run on rank 0, near or far."""

    def beat(self, report: RankStatus, known: int | None = None, seconds: float = 0.0) -> Snapshot:
        """Note a report; returns the state, at the latest after `seconds`, at once if its version is not `known`."""

    def lease(self, rank: int, number: int, kind: str) -> Lease:
        """Rows for a rank; see `RowPool.lease`."""


@dataclass
class _Rank:
    report: RankStatus
    heard: float = field(default_factory=time.monotonic)


class RunState:
    """Lives on rank 0. Safe for threads."""

    def __init__(self, world_size: int, silence: float = SILENCE_SECONDS) -> None:
        self._silence = silence
        self._ranks = [_Rank(RankStatus(rank)) for rank in range(world_size)]
        self._at_stage = Counter({0: world_size})
        self._counts: list[int] = []
        self._broken: dict[int, str] = {}
        self._pool: RowPool | None = None
        self._snapshot = Snapshot()
        self._refreshed = 0.0
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []

    def offer(self, pool: RowPool) -> None:
        """The rows that `lease` gives away."""
        with self._changed:
            self._pool = pool

    def lease(self, rank: int, number: int, kind: str) -> Lease:
        with self._changed:
            assert self._pool is not None, "ranks ask for rows when they have the plan"
            return self._pool.lease(rank, number, kind)

    def decide(self, exit_code: int) -> None:
        """Rank 0 ends the run for all."""
        with self._changed:
            self._publish(exit_code=exit_code)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener`, from any thread, whenever the version has changed."""
        self._listeners.append(listener)

    @property
    def snapshot(self) -> Snapshot:
        with self._changed:
            return self._snapshot

    def beat(self, report: RankStatus, known: int | None = None, seconds: float = 0.0) -> Snapshot:
        with self._changed:
            self._note(report)
            if known is not None:
                self._changed.wait_for(lambda: self._snapshot.version != known, seconds)
            return self._snapshot

    def _note(self, report: RankStatus) -> None:
        rank = self._ranks[report.rank]
        if report.stage < rank.report.stage:
            return  # it comes late, by a connection that was given up
        before, rank.report, rank.heard = rank.report, report, time.monotonic()
        if report.counts != before.counts:
            missing = len(report.counts) - len(self._counts)
            self._counts += [0] * missing
            for place, count in enumerate(report.counts):
                self._counts[place] += count - (before.counts[place] if before.counts else 0)
        if report.stage != before.stage:
            self._at_stage.update({report.stage: 1, before.stage: -1})
            self._at_stage = +self._at_stage
        stage = min(self._at_stage)
        is_new = bool(report.broken and not before.broken)
        if is_new:
            self._broken[report.rank] = report.broken
        if stage != self._snapshot.stage or is_new:
            # The first to break have the cause.
            first = itertools.islice(self._broken.items(), _MOST_NAMED)
            broken = tuple(f"rank {number}: {message}" for number, message in first)
            self._publish(stage=stage, broken=broken)
        if rank.heard - self._refreshed > _REFRESH_SECONDS:
            self._refresh(rank.heard)

    def _refresh(self, now: float) -> None:
        """What needs a look at every rank."""
        self._refreshed = now
        silent, stuck, late, behind = [], [], [], []
        for number, rank in enumerate(self._ranks):
            if now - rank.heard > self._silence:
                silent.append(number)
            if rank.report.stage == self._snapshot.stage:
                behind.append(number)
            if rank.report.stalled is not None:
                seconds, allowed = rank.report.stalled
                if seconds > allowed + STALL_GRACE_SECONDS:
                    stuck.append(number)
                elif seconds > allowed / 3:
                    late.append((number, round(seconds)))
        snapshot = self._snapshot
        if (tuple(silent), tuple(stuck)) != (snapshot.silent, snapshot.stuck):
            self._publish(silent=tuple(silent), stuck=tuple(stuck))
        self._replace(
            counts=tuple(self._counts), waiting_for=tuple(behind[:_MOST_NAMED]), late=tuple(late[:_MOST_NAMED])
        )

    def _publish(self, **changes: Any) -> None:
        """Change what ranks wait for."""
        self._replace(version=self._snapshot.version + 1, counts=tuple(self._counts), **changes)
        self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def _replace(self, **changes: Any) -> None:
        self._snapshot = Snapshot(**{**vars(self._snapshot), **changes})
