"""One rank's connection to the state of the run: heartbeats from a thread, barriers, leases of rows.

A collective breaks when a rank is late (30 s on MindSpore's CPU backend), and ranks end minutes or hours apart. So they
wait for each other here, however long it takes, and call collectives only when all have come.
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
"""So many heartbeats reach rank 0 each second at most."""
_PATIENCE_AFTER_DECISION = 30.0


def beat_seconds(world_size: int) -> float:
    """Seconds between two heartbeats of a rank."""
    return max(1.0, world_size / RANKS_PER_SECOND)


class FailedElsewhere(RunError):
    """Another rank has told the cause already."""


class Heartbeat:
    """A rank's side: reports from a thread, waits, asks for rows.

    watchdog: knows how long this rank has made no progress.
    """

    def __init__(
        self,
        rank: int,
        state: RunStateLike,
        seconds: float = 1.0,
        silence: float = SILENCE_SECONDS,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._state, self._seconds, self._silence = state, seconds, silence
        self.watchdog = watchdog or Watchdog()
        self._report = RankStatus(rank)
        self._leases = 0
        self._snapshot = Snapshot()
        self._answered = time.monotonic()
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    @property
    def snapshot(self) -> Snapshot:
        """The last answer of rank 0."""
        with self._guard:
            return self._snapshot

    def barrier(self) -> None:
        """Return when all ranks have called this as often as this one has.

        Raises:
            RunError: a rank broke, has been silent or without progress for too long, or rank 0 is out of reach.
        """
        wanted = self._next_stage()
        self.watchdog.pause()
        begin, told = time.monotonic(), 0.0
        self._beat()
        while (snapshot := self.snapshot).stage < wanted:
            waited = time.monotonic() - begin
            if snapshot.exit_code is None:
                self.check()
            elif waited > _PATIENCE_AFTER_DECISION:
                return  # all is decided and written; whoever is missing has left already
            if waited - told >= 60:
                told = waited
                logger.info("waiting for rank %s (%d s)", ", ".join(map(str, snapshot.waiting_for)), waited)
            self._wait_for_change(snapshot)

    def exit_code(self) -> int:
        """What rank 0 has decided; waits for it.

        Raises:
            RunError: as `barrier`.
        """
        while (code := self.snapshot.exit_code) is None:
            self.check()
            self._wait_for_change(self.snapshot)
        return code

    def lease(self, kind: str) -> Lease:
        """Rows for this rank to caption; see `leases.RowPool`. To be called from one thread at a time.

        Raises:
            RunError: as `barrier`.
        """
        self._leases += 1
        while True:
            try:
                return self._state.lease(self._report.rank, self._leases, kind)
            except (OSError, ValueError) as error:
                logger.debug("no rows from rank 0: %s", error)
                self.check()
                time.sleep(min(1.0, self._seconds))

    def leave(self, patience: float) -> None:
        """Say that this rank needs no more answers; rank 0 waits for all to say so, `patience` seconds at most."""
        wanted = self._next_stage()
        deadline = time.monotonic() + patience
        self._beat()
        while self._report.rank == 0 and self.snapshot.stage < wanted and time.monotonic() < deadline:
            self._beat(self.snapshot.version, min(self._seconds, max(0.0, deadline - time.monotonic())))

    def check(self) -> None:
        """Whether the run can still continue.

        Raises:
            RunError: as `barrier`.
        """
        snapshot = self.snapshot
        if snapshot.broken:
            raise FailedElsewhere("the run broke on " + "; ".join(snapshot.broken))
        if snapshot.silent:
            raise RunError(f"rank {_listed(snapshot.silent)} has been silent for {self._silence:g} s")
        if snapshot.stuck:
            raise RunError(f"rank {_listed(snapshot.stuck)} makes no progress, and its supervisor has not ended it")
        if time.monotonic() - self._answered > self._silence:
            raise RunError(f"rank 0 has been out of reach for {self._silence:g} s")

    def report_counts(self, *counts: int) -> None:
        """Set this rank's counts, which are summed over all ranks."""
        with self._guard:
            self._report = replace(self._report, counts=counts)

    def report_failure(self, message: str) -> None:
        """Tell the others that this rank gives up."""
        with self._guard:
            text = "".join(c if c.isprintable() else " " for c in message)[:1000]
            self._report = replace(self._report, broken=text)
        self._beat()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=2)

    def _next_stage(self) -> int:
        with self._guard:
            self._report = replace(self._report, stage=self._report.stage + 1)
            return self._report.stage

    def _run(self) -> None:
        while not self._closing.wait(self._seconds):
            self._beat()

    def _wait_for_change(self, snapshot: Snapshot) -> None:
        if not self._beat(snapshot.version, self._seconds):
            time.sleep(min(0.2, self._seconds))  # do not ask at once again

    def _beat(self, known: int | None = None, seconds: float = 0.0) -> bool:
        """RankStatus; whether rank 0 has answered. For how long it has not is noticed by `check`."""
        with self._guard:
            report = replace(self._report, stalled=self.watchdog.stalled())
        try:
            snapshot = self._state.beat(report, known, seconds)
        except (OSError, ValueError) as error:  # the network's, or a broken answer
            logger.debug("rank 0 does not answer: %s", error)
            return False
        with self._guard:
            if snapshot.version >= self._snapshot.version:
                self._snapshot = snapshot
            self._answered = time.monotonic()
        return True


def _listed(ranks: tuple[int, ...]) -> str:
    return ", ".join(map(str, ranks))
