"""Runs ranks as threads of one process, without a launcher, for tests and simulations."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.captioning.workers.collectives import Collectives
from pipeline.captioning.workers.heartbeat import Heartbeat
from pipeline.captioning.workers.run_state import RunState
from pipeline.captioning.workers.world import World


class ThreadCollectives(Collectives):
    """AllGather among threads. All threads get the same array object.

    buffers: shared by all ranks; one place for each rank's array, and a last place for the gathered array.
    timeout: seconds to wait for the other ranks.
    """

    def __init__(
        self, rank: int, world_size: int, barrier: threading.Barrier, buffers: list[Any], timeout: float
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self._barrier, self._buffers, self._timeout = barrier, buffers, timeout

    def all_gather(self, values: np.ndarray) -> np.ndarray:
        self._buffers[self.rank] = values
        if self._barrier.wait(self._timeout) == 0:
            parts = self._buffers[: self.world_size]
            assert len({part.shape for part in parts}) == 1, "real collectives need equal shapes"
            self._buffers[self.world_size] = np.stack(parts)
        self._barrier.wait(self._timeout)
        gathered: np.ndarray = self._buffers[self.world_size]
        self._barrier.wait(self._timeout)  # no rank may store its next array before all ranks have read this one
        return gathered

    def close(self) -> None:
        pass


def run_ranks(world_size: int, rank_main: Callable[[World], Any], timeout: float = 30.0) -> list[Any]:
    """Run `rank_main` in one thread for each rank; returns what each call returned or raised, in order of rank.

    timeout: seconds that ranks wait for each other in a collective.
    """
    state, barrier = RunState(world_size), threading.Barrier(world_size)
    buffers: list[Any] = [None] * (world_size + 1)
    results: list[Any] = [None] * world_size

    def main(rank: int) -> None:
        collectives = ThreadCollectives(rank, world_size, barrier, buffers, timeout)
        try:
            results[rank] = rank_main(World(collectives, Heartbeat(rank, state), state if rank == 0 else None, None))
        except BaseException as error:
            time.sleep(0.5)  # the other ranks may not have returned from the last collective yet
            barrier.abort()
            results[rank] = error

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
