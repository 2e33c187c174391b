"""How this process was started, read from the environment alone: msrun, torchrun or plain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """Place of this process in the run.

    launcher: `msrun`, `torchrun` or `plain`.
    is_scheduler: msrun's extra process on rank 0's host, which only forms the cluster; its rank is 0 too.
    rank: None where it is known only after joining (msrun over hosts without --node_rank).
    local_rank: rank among the workers of this host.
    master: host name or address of rank 0's host.
    """

    launcher: str = "plain"
    is_scheduler: bool = False
    rank: int | None = 0
    world_size: int = 1
    local_rank: int = 0
    master: str = "127.0.0.1"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        if "MS_ROLE" in environment:
            rank = environment.get("RANK_ID")
            return cls(
                launcher="msrun",
                is_scheduler=environment["MS_ROLE"] == "MS_SCHED",
                rank=None if rank is None else int(rank),
                world_size=int(environment.get("MS_WORKER_NUM", "1")),
                local_rank=int(environment.get("DEVICE_ID", "0")),
                master=environment.get("MS_SCHED_HOST", "127.0.0.1"),
            )
        if "TORCHELASTIC_RUN_ID" in environment or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(environment):
            return cls(
                launcher="torchrun",
                rank=int(environment["RANK"]),
                world_size=int(environment["WORLD_SIZE"]),
                local_rank=int(environment.get("LOCAL_RANK", "0")),
                master=environment.get("MASTER_ADDR", "127.0.0.1"),
            )
        return cls()

    @property
    def speaks(self) -> bool:
        """Whether this process tells the user about wrong use: one of them has to."""
        return self.rank in (0, None) and not self.is_scheduler
