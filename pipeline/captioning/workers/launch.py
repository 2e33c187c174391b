"""How this process was started, read from the environment alone: msrun, torchrun or plain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..process.errors import UsageError


@dataclass(frozen=True)
class Launch:
    """Place of this process in the run.

    launcher: `msrun`, `torchrun` or `plain`.
    is_scheduler: msrun's extra process on rank 0's host, which only forms the cluster; its rank is 0 too.
    local_rank: rank among the workers of this host; None if the environment does not tell.
    master: host name or address of rank 0's host.
    local_workers: workers of this host; None if the environment does not tell.
    """

    launcher: str = "plain"
    is_scheduler: bool = False
    rank: int = 0
    world_size: int = 1
    local_rank: int | None = 0
    master: str = "127.0.0.1"
    local_workers: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        if "MS_ROLE" in environment:
            if "RANK_ID" not in environment:
                raise UsageError("msrun over several hosts needs --node_rank: 0 on the first host, 1 on the second, …")
            return cls(
                launcher="msrun",
                is_scheduler=environment["MS_ROLE"] == "MS_SCHED",
                rank=_needed(environment, "RANK_ID"),
                world_size=_needed(environment, "MS_WORKER_NUM", 1),
                local_rank=_needed(environment, "DEVICE_ID", 0),
                master=environment.get("MS_SCHED_HOST", "127.0.0.1"),
            )
        if "TORCHELASTIC_RUN_ID" in environment or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(environment):
            return cls(
                launcher="torchrun",
                rank=_needed(environment, "RANK"),
                world_size=_needed(environment, "WORLD_SIZE"),
                local_rank=_number(environment, "LOCAL_RANK"),
                master=environment.get("MASTER_ADDR", "127.0.0.1"),
                local_workers=_number(environment, "LOCAL_WORLD_SIZE"),
            )
        return cls()

    @property
    def is_leader(self) -> bool:
        """Whether this process speaks to people: one of them has to."""
        return self.rank == 0 and not self.is_scheduler

    @property
    def reports_usage_errors(self) -> bool:
        """Wrong use may concern one host only, so one process of each tells it; where an environment made by hand does
        not say who is the first there, each of them."""
        by_hand = self.launcher == "torchrun" and None in (self.local_rank, self.local_workers)
        return (self.local_rank == 0 or by_hand) and not self.is_scheduler


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.strip().isdigit():
        raise UsageError(f"{name}={text!r} is not a whole number; the launcher sets it")
    return int(text)


def _needed(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    number = _number(environment, name)
    if number is not None:
        return number
    if default is None:
        raise UsageError(f"{name} is not set; the launcher sets it")
    return default
