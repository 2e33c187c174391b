"""Ranks that are threads of one process: whole runs without a launcher, for tests and simulations."""

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
    """AllGather among threads, which all get one and the same array."""

    def __init__(
        self, rank: int, world_size: int, barrier: threading.Barrier, shelf: list[Any], patience: float
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self._barrier, self._shelf, self._patience = barrier, shelf, patience

    def all_gather(self, values: np.ndarray) -> np.ndarray:
        self._shelf[self.rank] = values
        if self._barrier.wait(self._patience) == 0:
            parts = self._shelf[: self.world_size]
            assert len({part.shape for part in parts}) == 1, "real collectives need equal shapes"
            self._shelf[self.world_size] = np.stack(parts)
        self._barrier.wait(self._patience)
        gathered: np.ndarray = self._shelf[self.world_size]
        self._barrier.wait(self._patience)  # nobody puts the next array there before all have this one
        return gathered

    def close(self) -> None:
        pass


def run_ranks(world_size: int, rank_main: Callable[[World], Any], patience: float = 30.0) -> list[Any]:
    """Run `rank_main` on threads that form a world; returns what each returned or raised.

    patience: seconds that ranks wait for each other in a collective.
    """
    state, barrier = RunState(world_size), threading.Barrier(world_size)
    shelf: list[Any] = [None] * (world_size + 1)
    results: list[Any] = [None] * world_size

    def main(rank: int) -> None:
        collectives = ThreadCollectives(rank, world_size, barrier, shelf, patience)
        try:
            results[rank] = rank_main(World(collectives, Heartbeat(rank, state), state if rank == 0 else None, None))
        except BaseException as error:
            time.sleep(0.5)  # the others may still be on their way out of the last collective
            barrier.abort()
            results[rank] = error

    threads = [threading.Thread(target=main, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
