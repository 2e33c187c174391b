"""The ranks of a run as one thing: who am I, wait for all, share, gather."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..errors import RunError
from .collectives import Collectives, MindSporeCollectives, SoloCollectives, TorchCollectives
from .gather import gather_records
from .launch import Launch
from .rendezvous import BEAT_SECONDS, RemoteRoster, Rendezvous, Roster, RosterServer

_TOKEN_WORDS = 8


class World:
    """This process among the ranks. `rank` 0 leads: it plans, writes, and speaks to people."""

    def __init__(
        self, collectives: Collectives, rendezvous: Rendezvous, roster: Roster | None, server: RosterServer | None
    ) -> None:
        self.rank, self.world_size = collectives.rank, collectives.world_size
        self._collectives = collectives
        self._rendezvous = rendezvous
        self._roster = roster
        self._server = server

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def meet(self) -> None:
        """Wait until every rank has come here; see Rendezvous.meet."""
        self._rendezvous.meet()

    def gather(self, records: Iterable[bytes], is_wanted: bool = True) -> Iterator[bytes]:
        """The records of all ranks, on every rank that wants them. Waits for all ranks first."""
        own = iter(records)
        # What takes long before the first record (a journal is read) must not happen in a collective.
        first = list(itertools.islice(own, 1))
        self.meet()
        return gather_records(self._collectives, itertools.chain(first, own), is_wanted=is_wanted)

    def share(self, records: Iterable[bytes]) -> Iterator[bytes]:
        """Rank 0's records, on every rank; what the others pass is ignored."""
        return self.gather(records if self.leads else ())

    def gather_json(self, value: Any) -> list[Any]:
        """One value of every rank, in order of rank, on every rank."""
        record = json.dumps([self.rank, value]).encode()
        return [value for _, value in sorted(map(json.loads, self.gather([record])), key=lambda pair: pair[0])]

    def report(self, *counts: int) -> None:
        """Set this rank's counts for `totals`.

        Raises:
            RunError: another rank broke, or is silent: there is no use in going on.
        """
        self._rendezvous.report(*counts)
        self._rendezvous.check()

    def totals(self) -> list[int]:
        """Counts summed over all ranks, a second old at most; empty before the first report."""
        return self._rendezvous.state.get("counts", [])

    def decide(self, exit_code: int) -> None:
        """Rank 0 ends the run for all."""
        assert self._roster is not None
        self._roster.decide({"exit_code": exit_code})

    def verdict(self) -> int:
        """The exit code that rank 0 decided; waits for it."""
        self.meet()
        while "exit_code" not in (verdict := self._rendezvous.state.get("verdict", {})):
            time.sleep(BEAT_SECONDS / 4)
        return verdict["exit_code"]

    def report_broken(self, message: str) -> None:
        """Tell the other ranks that this one gives up."""
        self._rendezvous.report_broken(message)

    def close(self, in_order: bool) -> None:
        """Leave the run. in_order: all ranks are leaving now; otherwise this one gives up."""
        if in_order:
            with contextlib.suppress(RunError):  # the work is done and written
                self.meet()
            self._rendezvous.depart(patience=5 * BEAT_SECONDS)
        elif self._server is not None:
            time.sleep(3 * BEAT_SECONDS)  # the others learn from the roster what happened
        self._rendezvous.close()
        if self._server is not None:
            self._server.close()
        if in_order:
            self._collectives.close()


def solo_world(collectives: Collectives | None = None) -> World:
    """The world of a single process, a plain one unless it has collectives."""
    roster = Roster(1)
    return World(collectives or SoloCollectives(), Rendezvous(0, roster), roster, None)


def join_world(launch: Launch, device: str) -> World:
    """Join the other ranks; blocks until all are there. The framework must have been activated.

    device: where the model goes, in torch's notation.
    """
    collectives = MindSporeCollectives() if launch.launcher == "msrun" else TorchCollectives(device)
    if collectives.world_size == 1:
        return solo_world(collectives)
    return _meet_at_rank_0(collectives, launch.master)


def _meet_at_rank_0(collectives: Collectives, master: str) -> World:
    """Start or reach rank 0's roster. Its port and token travel by collective: all ranks are here now."""
    words = np.zeros(1 + _TOKEN_WORDS, np.int32)
    roster = server = None
    if collectives.rank == 0:
        roster = Roster(collectives.world_size)
        server = _serve(roster, master)
        words[0] = server.port
        words[1:] = np.frombuffer(server.token.encode("ascii"), np.int32)
    leader = collectives.all_gather(words)[0]
    if roster is not None:
        return World(collectives, Rendezvous(0, roster), roster, server)
    remote = RemoteRoster(master, int(leader[0]), leader[1:].tobytes().decode("ascii"))
    return World(collectives, Rendezvous(collectives.rank, remote), None, None)


def _serve(roster: Roster, master: str) -> RosterServer:
    try:
        return RosterServer(roster, master)
    except OSError:  # the master's name is not an address of this host's own, as behind NAT
        return RosterServer(roster, "")


def run_scheduler() -> None:
    """msrun's scheduler process: form the cluster, and leave with it."""
    os.environ.setdefault("GLOG_v", "3")
    import mindspore
    from mindspore.communication import init

    mindspore.set_device("CPU")
    init()
