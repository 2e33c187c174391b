"""One rank's connection to the run state on rank 0: heartbeats from a thread, barriers, leases of rows.

A collective fails when a rank is late (30 s on MindSpore's CPU backend), but ranks finish minutes or hours apart. So
ranks wait for each other here, without a time limit, and call a collective only after all have reached the barrier.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from ..process.errors import RunError
from ..process.watchdog import Watchdog
from .leases import Lease
from .run_state import SILENCE_SECONDS, RankStatus, RunStateLike, Snapshot

logger = logging.getLogger(__name__)

RANKS_PER_SECOND = 128
"""Heartbeats that rank 0 receives each second, at most."""
_MAX_WAIT_AFTER_DECISION = 30.0
_LOG_SECONDS = 60


def beat_interval(world_size: int) -> float:
    """Seconds between two heartbeats of a rank."""
    return max(1.0, world_size / RANKS_PER_SECOND)


class FailedElsewhere(RunError):
    """The run failed on another rank, which has already reported the cause."""


class Heartbeat:
    """Sends this rank's status to rank 0 from a thread, waits at barriers and leases rows.

    state: the run state, on this rank or on another one.
    interval: seconds between two heartbeats.
    silence: seconds without an answer after which rank 0 counts as dead.
    watchdog: measures the time since this rank's last progress.
    """

    def __init__(
        self,
        rank: int,
        state: RunStateLike,
        interval: float = 1.0,
        silence: float = SILENCE_SECONDS,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._state, self._interval, self._silence = state, interval, silence
        self.watchdog = watchdog or Watchdog()
        self._status = RankStatus(rank)
        self._leases = 0
        self._snapshot = Snapshot()
        self._answered = time.monotonic()
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def snapshot(self) -> Snapshot:
        """The run state in rank 0's last answer."""
        with self._guard:
            return self._snapshot

    def barrier(self, is_last: bool = True) -> None:
        """Wait until all ranks have called `barrier` as often as this rank. Pauses the watchdog.

        is_last: once the exit code is decided, the others may be missing because they have ended.

        Raises:
            RunError: a rank failed, was silent for too long or made no progress for too long, or rank 0 is out of
                reach.
        """
        wanted = self._next_barrier()
        self.watchdog.pause()
        begin, logged = time.monotonic(), 0.0
        self._beat()
        while (snapshot := self.snapshot).barriers < wanted:
            waited = time.monotonic() - begin
            if snapshot.exit_code is None or not is_last:
                self.check()
            elif waited > _MAX_WAIT_AFTER_DECISION:
                return  # the exit code is decided and the output is written; the missing ranks have ended already
            if waited - logged >= _LOG_SECONDS:
                logged = waited
                logger.info("waiting for rank %s (%d s)", ", ".join(map(str, snapshot.waiting_for)), waited)
            self._wait_for_change(snapshot)

    def exit_code(self) -> int:
        """Wait for the exit code that rank 0 decides, and return it.

        Raises:
            RunError: as `barrier`.
        """
        while (code := self.snapshot.exit_code) is None:
            self.check()
            self._wait_for_change(self.snapshot)
        return code

    def lease(self, kind: str) -> Lease:
        """Lease rows for this rank to caption; see `leases.RowPool`. Call from one thread at a time.

        Raises:
            RunError: as `barrier`.
        """
        self._leases += 1
        while True:
            try:
                return self._state.lease(self._status.rank, self._leases, kind)
            except (OSError, ValueError) as error:
                logger.debug("no rows from rank 0: %s", error)
                self.check()
                time.sleep(min(1.0, self._interval))

    def leave(self, timeout: float) -> None:
        """Report that this rank needs no more answers. Rank 0 waits until all ranks have reported that.

        timeout: seconds that rank 0 waits at most.
        """
        wanted = self._next_barrier()
        deadline = time.monotonic() + timeout
        self._beat()
        while self._status.rank == 0 and self.snapshot.barriers < wanted and time.monotonic() < deadline:
            self._beat(self.snapshot.version, min(self._interval, max(0.0, deadline - time.monotonic())))

    def check(self) -> None:
        """Check that the run can continue.

        Raises:
            RunError: as `barrier`.
        """
        snapshot = self.snapshot
        if snapshot.failures:
            raise FailedElsewhere("the run failed on " + "; ".join(snapshot.failures))
        if snapshot.silent:
            raise RunError(f"rank {_listed(snapshot.silent)} has been silent for {self._silence:g} s")
        if snapshot.stalled:
            raise RunError(f"rank {_listed(snapshot.stalled)} makes no progress, and its supervisor has not ended it")
        if time.monotonic() - self._answered > self._silence:
            raise RunError(f"rank 0 has been out of reach for {self._silence:g} s")

    def report_counts(self, *counts: int) -> None:
        """Set this rank's counts. Rank 0 adds up the counts of all ranks."""
        with self._guard:
            self._status = replace(self._status, counts=counts)

    def report_failure(self, message: str) -> None:
        """Report to the other ranks that this rank fails."""
        with self._guard:
            text = "".join(c if c.isprintable() else " " for c in message)[:1000]
            self._status = replace(self._status, failure=text)
        self._beat()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=2)

    def _next_barrier(self) -> int:
        with self._guard:
            self._status = replace(self._status, barriers=self._status.barriers + 1)
            return self._status.barriers

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            self._beat()

    def _wait_for_change(self, snapshot: Snapshot) -> None:
        if not self._beat(snapshot.version, self._interval):
            time.sleep(min(0.2, self._interval))  # no answer: do not ask again immediately

    def _beat(self, known_version: int | None = None, wait_seconds: float = 0.0) -> bool:
        """Send the status and store the answer; returns whether rank 0 answered. See `RunStateLike.beat`.

        `check` raises if rank 0 does not answer for too long.
        """
        with self._guard:
            status = replace(self._status, since_progress=self.watchdog.since_progress())
        try:
            snapshot = self._state.beat(status, known_version, wait_seconds)
        except (OSError, ValueError) as error:  # from the network, or from an invalid answer
            logger.debug("rank 0 does not answer: %s", error)
            return False
        with self._guard:
            if snapshot.version >= self._snapshot.version:
                self._snapshot = snapshot
            self._answered = time.monotonic()
        return True


def _listed(ranks: tuple[int, ...]) -> str:
    return ", ".join(map(str, ranks))
