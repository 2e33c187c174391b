"""The run state on rank 0: how far each rank is, when its last heartbeat arrived, and which rows are not leased yet.

A heartbeat costs rank 0 the same time for any number of ranks, because rank 0 also feeds a device. At most once a
second, a heartbeat also checks all ranks. Knows nothing about the network.
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
"""A rank without a heartbeat for this long counts as dead."""
STALL_GRACE_SECONDS = 120.0
"""Time for a supervisor to end its rank that makes no progress. After that the run fails."""
_REFRESH_SECONDS = 1.0
_MAX_LISTED = 8


@dataclass(frozen=True)
class RankStatus:
    """What a rank reports in a heartbeat.

    barriers: number of barriers that this rank has reached.
    counts: figures that are added up over the ranks.
    failure: why this rank fails; empty otherwise.
    since_progress: seconds since its last progress, and seconds allowed; None while it does not caption.
    """

    rank: int
    barriers: int = 0
    counts: tuple[int, ...] = ()
    failure: str = ""
    since_progress: tuple[float, float] | None = None

    def to_json(self) -> Any:
        return [self.rank, self.barriers, self.counts, self.failure, self.since_progress]

    @classmethod
    def from_json(cls, value: Any) -> RankStatus:
        rank, barriers, counts, failure, since_progress = value
        return cls(rank, barriers, tuple(counts), failure, tuple(since_progress) if since_progress else None)


@dataclass(frozen=True)
class Snapshot:
    """The run state at one time, sent to every rank.

    version: changes when `barriers`, `failures`, `silent`, `stalled` or `exit_code` changes.
    barriers: number of barriers that all ranks have reached.
    waiting_for: ranks that have not reached the next barrier, at most 8.
    counts: added up over the ranks.
    failures: the first ranks that failed, with their messages, at most 8.
    silent: ranks without a heartbeat for too long.
    stalled: ranks without progress for too long that their supervisors did not end.
    late: (rank, seconds since progress) of ranks without progress for more than a third of the allowed time, at most 8.
    exit_code: of the run; None until rank 0 has decided it.
    """

    version: int = 0
    barriers: int = 0
    waiting_for: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    failures: tuple[str, ...] = ()
    silent: tuple[int, ...] = ()
    stalled: tuple[int, ...] = ()
    late: tuple[tuple[int, int], ...] = ()
    exit_code: int | None = None

    def to_json(self) -> Any:
        return list(vars(self).values())

    @classmethod
    def from_json(cls, value: Any) -> Snapshot:
        version, barriers, waiting_for, counts, failures, silent, stalled, late, exit_code = value
        pairs = tuple((rank, seconds) for rank, seconds in late)
        return cls(
            version,
            barriers,
            tuple(waiting_for),
            tuple(counts),
            tuple(failures),
            tuple(silent),
            tuple(stalled),
            pairs,
            exit_code,
        )


class RunStateLike(Protocol):
    """What a rank needs of the run state: `RunState` on rank 0, `RemoteRunState` on the other ranks."""

    def beat(self, status: RankStatus, known_version: int | None = None, wait_seconds: float = 0.0) -> Snapshot:
        """Record a rank's status and return the run state.

        known_version: the version that the rank knows. Return only after the version differs from it, or after
            `wait_seconds`. None: return immediately.
        """

    def lease(self, rank: int, request_number: int, kind: str) -> Lease:
        """Lease rows to a rank; see `RowPool.lease`."""


@dataclass
class _Rank:
    """last_heard: when its last heartbeat arrived, in time.monotonic seconds."""

    status: RankStatus
    last_heard: float = field(default_factory=time.monotonic)


class RunState:
    """The run state, on rank 0. Thread-safe.

    silence: seconds without a heartbeat after which a rank counts as dead.
    """

    def __init__(self, world_size: int, silence: float = SILENCE_SECONDS) -> None:
        self._silence = silence
        self._ranks = [_Rank(RankStatus(rank)) for rank in range(world_size)]
        self._ranks_at_barrier = Counter({0: world_size})
        self._counts: list[int] = []
        self._failures: dict[int, str] = {}
        self._pool: RowPool | None = None
        self._snapshot = Snapshot()
        self._refreshed = 0.0
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []

    def offer(self, pool: RowPool) -> None:
        """Set the rows that `lease` leases. Call before any rank leases rows."""
        with self._changed:
            self._pool = pool

    def lease(self, rank: int, request_number: int, kind: str) -> Lease:
        with self._changed:
            assert self._pool is not None, "a rank leases rows only after it has received the plan"
            return self._pool.lease(rank, request_number, kind)

    def decide(self, exit_code: int) -> None:
        """Set the exit code of all ranks."""
        with self._changed:
            self._publish(exit_code=exit_code)

    def begin_next_run(self) -> None:
        """Forget the exit code. All ranks have taken it."""
        with self._changed:
            self._publish(exit_code=None)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of the version. It may be called from any thread."""
        self._listeners.append(listener)

    @property
    def snapshot(self) -> Snapshot:
        with self._changed:
            return self._snapshot

    def beat(self, status: RankStatus, known_version: int | None = None, wait_seconds: float = 0.0) -> Snapshot:
        with self._changed:
            self._record(status)
            if known_version is not None:
                self._changed.wait_for(lambda: self._snapshot.version != known_version, wait_seconds)
            return self._snapshot

    def _record(self, status: RankStatus) -> None:
        rank = self._ranks[status.rank]
        if status.barriers < rank.status.barriers:
            return  # an old heartbeat that arrives late, from a connection that its rank has closed
        before, rank.status, rank.last_heard = rank.status, status, time.monotonic()
        if status.counts != before.counts:
            pairs = itertools.zip_longest(status.counts, before.counts, fillvalue=0)
            changes = [count - earlier for count, earlier in pairs]
            self._counts += [0] * (len(changes) - len(self._counts))
            for index, change in enumerate(changes):
                self._counts[index] += change
        if status.barriers != before.barriers:
            self._ranks_at_barrier.update({status.barriers: 1, before.barriers: -1})
            self._ranks_at_barrier = +self._ranks_at_barrier
        barriers = min(self._ranks_at_barrier)
        has_newly_failed = bool(status.failure and not before.failure)
        if has_newly_failed:
            self._failures[status.rank] = status.failure
        if barriers != self._snapshot.barriers or has_newly_failed:
            # The first failures contain the cause; later ones may only follow from it.
            first = itertools.islice(self._failures.items(), _MAX_LISTED)
            failures = tuple(f"rank {number}: {message}" for number, message in first)
            self._publish(barriers=barriers, failures=failures)
        if rank.last_heard - self._refreshed > _REFRESH_SECONDS:
            self._refresh(rank.last_heard)

    def _refresh(self, now: float) -> None:
        """Update what requires a check of every rank."""
        self._refreshed = now
        silent, stalled, late, not_at_barrier = [], [], [], []
        for number, rank in enumerate(self._ranks):
            if now - rank.last_heard > self._silence:
                silent.append(number)
            if rank.status.barriers == self._snapshot.barriers:
                not_at_barrier.append(number)
            if rank.status.since_progress is not None:
                seconds, allowed = rank.status.since_progress
                if seconds > allowed + STALL_GRACE_SECONDS:
                    stalled.append(number)
                elif seconds > allowed / 3:
                    late.append((number, round(seconds)))
        snapshot = self._snapshot
        if (tuple(silent), tuple(stalled)) != (snapshot.silent, snapshot.stalled):
            self._publish(silent=tuple(silent), stalled=tuple(stalled))
        self._replace(
            counts=tuple(self._counts), waiting_for=tuple(not_at_barrier[:_MAX_LISTED]), late=tuple(late[:_MAX_LISTED])
        )

    def _publish(self, **changes: Any) -> None:
        """Change the snapshot and its version, and wake the ranks that wait for a change."""
        self._replace(version=self._snapshot.version + 1, counts=tuple(self._counts), **changes)
        self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def _replace(self, **changes: Any) -> None:
        self._snapshot = Snapshot(**{**vars(self._snapshot), **changes})
