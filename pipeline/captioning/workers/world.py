"""What the ranks of a run do together: barrier, broadcast, gather, leases of rows, one exit code."""

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
from .heartbeat import Heartbeat, beat_interval
from .heartbeat_server import HeartbeatServer, RemoteRunState
from .launch import Launch
from .leases import Lease, RowPool
from .run_state import RunState, Snapshot

_TOKEN_WORDS = 8
_LEAVE_SECONDS = 5.0


class World:
    """This process as one of the ranks.

    Rank 0 is the leader: it plans, leases rows, writes the output and logs progress.

    collectives: AllGather among the ranks, with this process's rank and the world size.
    heartbeat: this rank's connection to the run state.
    state: the run state; None except on rank 0.
    server: serves `state` to the other ranks; None except on rank 0, and None if the world has one rank only.
    watchdog: measures the time since this rank's last progress.
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
        """Wait until all ranks have reached this barrier; see Heartbeat.barrier."""
        self._heartbeat.barrier()

    def gather(self, records: Iterable[bytes], is_wanted: bool = True) -> Iterator[bytes]:
        """The records of all ranks. Waits at a barrier first; see `gather.gather_records`."""
        own = iter(records)
        # Making the first record may take long (a journal is read). The other ranks must wait at the barrier meanwhile,
        # not in a collective.
        first = list(itertools.islice(own, 1))
        self.barrier()
        return gather_records(self._collectives, itertools.chain(first, own), is_wanted=is_wanted)

    def broadcast(self, records: Iterable[bytes]) -> Iterator[bytes]:
        """Rank 0's records, on every rank. The records that other ranks pass are ignored."""
        return self.gather(records if self.is_leader else ())

    def gather_json(self, value: Any) -> list[Any]:
        """The value of every rank, in order of rank, on every rank."""
        record = json.dumps([self.rank, value]).encode()
        return [value for _, value in sorted(map(json.loads, self.gather([record])), key=lambda pair: pair[0])]

    def host_workers(self) -> int:
        """Number of ranks on this host, including this one. All ranks must call it."""
        hosts = self.gather_json(socket.gethostname())
        return int(hosts.count(hosts[self.rank]))

    def offer(self, pool: RowPool) -> None:
        """Let all ranks lease these rows. Call on rank 0, before it broadcasts the plan."""
        assert self._state is not None
        self._state.offer(pool)

    def lease(self, kind: str) -> Lease:
        """Lease rows for this rank to caption; see Heartbeat.lease."""
        return self._heartbeat.lease(kind)

    def report_counts(self, *counts: int) -> None:
        """Set this rank's counts, which `snapshot` adds up over the ranks.

        Raises:
            RunError: the run cannot continue; see Heartbeat.check.
        """
        self._heartbeat.report_counts(*counts)
        self._heartbeat.check()

    @property
    def snapshot(self) -> Snapshot:
        """The run state, a few seconds old at most."""
        return self._heartbeat.snapshot

    def decide(self, exit_code: int) -> None:
        """Set the exit code of all ranks. Call on rank 0."""
        assert self._state is not None
        self._state.decide(exit_code)

    def exit_code(self) -> int:
        """Wait for all ranks, and return the exit code that rank 0 decides."""
        self.barrier()
        return self._heartbeat.exit_code()

    def begin_next_run(self) -> None:
        """Let another run follow the one that has ended. All ranks call it at once after the first run has returned."""
        self._heartbeat.barrier(is_last=False)  # all ranks have taken the exit code
        if self._state is not None:
            self._state.begin_next_run()
        self._heartbeat.report_counts()
        self._heartbeat.barrier(is_last=False)

    def report_failure(self, message: str) -> None:
        """Report to the other ranks that this rank fails."""
        self._heartbeat.report_failure(message)

    def close(self, in_order: bool) -> None:
        """Leave the run.

        in_order: all ranks have finished and call this now. Otherwise this rank ends because of an error.
        """
        self.watchdog.pause()
        if in_order:
            with contextlib.suppress(RunError):  # the output is already written
                self.barrier()
            self._heartbeat.leave(timeout=_LEAVE_SECONDS)
        elif self._server is not None:
            time.sleep(3 * beat_interval(self.world_size))  # the other ranks must receive the failure
        self._heartbeat.close()
        if self._server is not None:
            self._server.close()
        if in_order:
            self._collectives.close()


def solo_world(collectives: Collectives | None = None, watchdog: Watchdog | None = None) -> World:
    """The world of a single process.

    collectives: of a launcher that started one rank only; None without a launcher.
    """
    state = RunState(1)
    return World(collectives or SoloCollectives(), Heartbeat(0, state, watchdog=watchdog), state, None)


def join_world(launch: Launch, device: str, watchdog: Watchdog) -> World:
    """Join the other ranks; wait until all have joined. The backend must be active.

    device: the model's device, in torch's notation.
    """
    collectives = MindSporeCollectives() if launch.launcher == "msrun" else TorchCollectives(device)
    if collectives.world_size == 1:
        return solo_world(collectives, watchdog)
    return _connect_heartbeat(collectives, launch.master, watchdog)


def _connect_heartbeat(collectives: Collectives, master: str, watchdog: Watchdog) -> World:
    """Start the heartbeat server on rank 0, and connect the other ranks to it.

    The ranks have just joined, so a collective can carry the server's port and token.
    """
    words = np.zeros(1 + _TOKEN_WORDS, np.int32)
    state = server = None
    if collectives.rank == 0:
        state = RunState(collectives.world_size)
        server = HeartbeatServer(state, collectives.world_size)
        words[0] = server.port
        words[1:] = np.frombuffer(server.token.encode("ascii"), np.int32)
    leader_words = collectives.all_gather(words)[0]
    interval = beat_interval(collectives.world_size)
    if state is not None:
        return World(collectives, Heartbeat(0, state, interval, watchdog=watchdog), state, server)
    remote = RemoteRunState(master, int(leader_words[0]), leader_words[1:].tobytes().decode("ascii"))
    return World(collectives, Heartbeat(collectives.rank, remote, interval, watchdog=watchdog), None, None)


def run_scheduler() -> None:
    """Run msrun's scheduler process: it forms the cluster and ends with it."""
    os.environ.setdefault("GLOG_v", "3")
    import mindspore
    from mindspore.communication import init

    mindspore.set_device("CPU")
    init()
