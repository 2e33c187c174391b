"""Finds out from the environment alone how this process was started: by msrun, by torchrun or without a launcher."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..process.errors import UsageError


@dataclass(frozen=True)
class Launch:
    """The launcher of this process, and the rank that it assigned.

    launcher: `msrun`, `torchrun` or `plain` (no launcher).
    is_scheduler: whether this is msrun's extra process on rank 0's host, which only forms the cluster. Its rank is 0,
        too.
    local_rank: rank among the workers of this host; None if the environment does not contain it.
    master: host name or address of rank 0's host.
    local_workers: number of workers on this host; None if the environment does not contain it.
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
        """Read the launcher's environment variables.

        Raises:
            UsageError: a variable is missing or is not a whole number.
        """
        if "MS_ROLE" in environment:
            if "RANK_ID" not in environment:
                raise UsageError("msrun over several hosts needs --node_rank: 0 on the first host, 1 on the second, …")
            return cls(
                launcher="msrun",
                is_scheduler=environment["MS_ROLE"] == "MS_SCHED",
                rank=_required_number(environment, "RANK_ID"),
                world_size=_required_number(environment, "MS_WORKER_NUM", 1),
                local_rank=_required_number(environment, "DEVICE_ID", 0),
                master=environment.get("MS_SCHED_HOST", "127.0.0.1"),
            )
        if "TORCHELASTIC_RUN_ID" in environment or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(environment):
            return cls(
                launcher="torchrun",
                rank=_required_number(environment, "RANK"),
                world_size=_required_number(environment, "WORLD_SIZE"),
                local_rank=_number(environment, "LOCAL_RANK"),
                master=environment.get("MASTER_ADDR", "127.0.0.1"),
                local_workers=_number(environment, "LOCAL_WORLD_SIZE"),
            )
        return cls()

    @property
    def is_leader(self) -> bool:
        """Whether this process logs what concerns the whole run."""
        return self.rank == 0 and not self.is_scheduler

    @property
    def reports_usage_errors(self) -> bool:
        """Whether this process prints usage errors. A usage error may concern one host only, so one worker on each host
        prints it. If ranks were started by hand and their local ranks are not known, all workers print it."""
        started_by_hand = self.launcher == "torchrun" and None in (self.local_rank, self.local_workers)
        return (self.local_rank == 0 or started_by_hand) and not self.is_scheduler


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.strip().isdigit():
        raise UsageError(f"{name}={text!r} is not a whole number; the launcher sets it")
    return int(text)


def _required_number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    number = _number(environment, name)
    if number is not None:
        return number
    if default is None:
        raise UsageError(f"{name} is not set; the launcher sets it")
    return default
