"""The ranks of a run as one thing: who am I, wait for all, share, gather."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..process.errors import RunError
from ..process.watchdog import Watchdog
from .collectives import Collectives, MindSporeCollectives, SoloCollectives, TorchCollectives
from .gather import gather_records
from .heartbeat import Heartbeat, beat_seconds
from .heartbeat_server import HeartbeatServer, RemoteRunState
from .launch import Launch
from .leases import Lease, RowPool
from .run_state import RunState, Snapshot

_TOKEN_WORDS = 8
_LEAVE_SECONDS = 5.0


class World:
    """This process among the ranks. `rank` 0 leads: it plans, leases rows, writes, and speaks to people.

    watchdog: when this rank last made progress.
    """

    def __init__(
        self,
        collectives: Collectives,
        heartbeat: Heartbeat,
        state: RunState | None,
        server: HeartbeatServer | None,
    ) -> None:
        self.rank, self.world_size = collectives.rank, collectives.world_size
        self.watchdog = heartbeat.watchdog
        self._collectives = collectives
        self._heartbeat = heartbeat
        self._state = state
        self._server = server

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank has come here; see Heartbeat.barrier."""
        self._heartbeat.barrier()

    def gather(self, records: Iterable[bytes], is_wanted: bool = True) -> Iterator[bytes]:
        """The records of all ranks, on every rank that wants them. Waits for all ranks first."""
        own = iter(records)
        # What takes long before the first record (a journal is read) must not happen in a collective.
        first = list(itertools.islice(own, 1))
        self.barrier()
        return gather_records(self._collectives, itertools.chain(first, own), is_wanted=is_wanted)

    def broadcast(self, records: Iterable[bytes]) -> Iterator[bytes]:
        """Rank 0's records, on every rank; what the others pass is ignored."""
        return self.gather(records if self.is_leader else ())

    def gather_json(self, value: Any) -> list[Any]:
        """One value of every rank, in order of rank, on every rank."""
        record = json.dumps([self.rank, value]).encode()
        return [value for _, value in sorted(map(json.loads, self.gather([record])), key=lambda pair: pair[0])]

    def host_workers(self) -> int:
        """Ranks on this host, this one included. Collective."""
        hosts = self.gather_json(socket.gethostname())
        return int(hosts.count(hosts[self.rank]))

    def offer(self, pool: RowPool) -> None:
        """Let all ranks lease these rows; on rank 0, before they learn the plan."""
        assert self._state is not None
        self._state.offer(pool)

    def lease(self, kind: str) -> Lease:
        """Rows for this rank to caption; see Heartbeat.lease."""
        return self._heartbeat.lease(kind)

    def report_counts(self, *counts: int) -> None:
        """Set this rank's counts for `snapshot`.

        Raises:
            RunError: the run cannot continue; see Heartbeat.check.
        """
        self._heartbeat.report_counts(*counts)
        self._heartbeat.check()

    @property
    def snapshot(self) -> Snapshot:
        """The state of the run, a few seconds old at most."""
        return self._heartbeat.snapshot

    def decide(self, exit_code: int) -> None:
        """Rank 0 ends the run for all."""
        assert self._state is not None
        self._state.decide(exit_code)

    def exit_code(self) -> int:
        """The exit code that rank 0 decided; waits for all ranks and for it."""
        self.barrier()
        return self._heartbeat.exit_code()

    def report_failure(self, message: str) -> None:
        """Tell the other ranks that this one gives up."""
        self._heartbeat.report_failure(message)

    def close(self, in_order: bool) -> None:
        """Leave the run. in_order: all ranks are leaving now; otherwise this one gives up."""
        self.watchdog.pause()
        if in_order:
            with contextlib.suppress(RunError):  # the work is done and written
                self.barrier()
            self._heartbeat.leave(patience=_LEAVE_SECONDS)
        elif self._server is not None:
            time.sleep(3 * beat_seconds(self.world_size))  # the others learn what happened
        self._heartbeat.close()
        if self._server is not None:
            self._server.close()
        if in_order:
            self._collectives.close()


def solo_world(collectives: Collectives | None = None, watchdog: Watchdog | None = None) -> World:
    """The world of a single process, a plain one unless it has collectives."""
    state = RunState(1)
    return World(collectives or SoloCollectives(), Heartbeat(0, state, watchdog=watchdog), state, None)


def join_world(launch: Launch, device: str, watchdog: Watchdog) -> World:
    """Join the other ranks; blocks until all are there. The framework must have been activated.

    device: where the model goes, in torch's notation.
    """
    collectives = MindSporeCollectives() if launch.launcher == "msrun" else TorchCollectives(device)
    if collectives.world_size == 1:
        return solo_world(collectives, watchdog)
    return _join_heartbeat(collectives, launch.master, watchdog)


def _join_heartbeat(collectives: Collectives, master: str, watchdog: Watchdog) -> World:
    """Start or reach rank 0's heartbeat server. Its port and token travel by collective: all ranks are here now."""
    words = np.zeros(1 + _TOKEN_WORDS, np.int32)
    state = server = None
    if collectives.rank == 0:
        state = RunState(collectives.world_size)
        server = HeartbeatServer(state, collectives.world_size)
        words[0] = server.port
        words[1:] = np.frombuffer(server.token.encode("ascii"), np.int32)
    leader = collectives.all_gather(words)[0]
    seconds = beat_seconds(collectives.world_size)
    if state is not None:
        return World(collectives, Heartbeat(0, state, seconds, watchdog=watchdog), state, server)
    remote = RemoteRunState(master, int(leader[0]), leader[1:].tobytes().decode("ascii"))
    return World(collectives, Heartbeat(collectives.rank, remote, seconds, watchdog=watchdog), None, None)


def run_scheduler() -> None:
    """msrun's scheduler process: form the cluster, and leave with it."""
    os.environ.setdefault("GLOG_v", "3")
    import mindspore
    from mindspore.communication import init

    mindspore.set_device("CPU")
    init()
