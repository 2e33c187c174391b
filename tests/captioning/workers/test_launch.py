"""Who started this process, and whether its environment is fit for it."""

from __future__ import annotations

import pytest

from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.process.supervisor import waits
from pipeline.captioning.workers.launch import Launch
from pipeline.captioning.workers.launch_checks import warnings

MSRUN = {"MS_ROLE": "MS_WORKER", "RANK_ID": "5", "MS_WORKER_NUM": "16", "DEVICE_ID": "1", "MS_SCHED_HOST": "10.0.0.1"}


def test_launchers() -> None:
    assert Launch.from_environment({}) == Launch()
    assert Launch.from_environment(MSRUN) == Launch("msrun", False, 5, 16, 1, "10.0.0.1")
    torchrun = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "h"}
    assert Launch.from_environment(torchrun) == Launch("torchrun", False, 2, 4, 0, "h")


def test_ranks_without_a_place_on_their_host_are_told_apart() -> None:
    """Such environments are made by hand: RANK and WORLD_SIZE are there, what torchrun adds is not."""
    by_hand = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "h"}
    launch = Launch.from_environment(by_hand)
    assert launch.local_rank is None and launch.reports_usage_errors, "nobody else may tell it"
    whole = Launch.from_environment({**by_hand, "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"})
    assert (whole.local_rank, whole.local_workers, whole.reports_usage_errors) == (3, 4, False)
    assert Launch.from_environment({**by_hand, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}).reports_usage_errors
    assert Launch.from_environment(MSRUN).local_rank == 1 and not Launch.from_environment(MSRUN).reports_usage_errors


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", ""), ("RANK", "first"), ("WORLD_SIZE", "4.0")])
def test_numbers_of_the_environment_are_numbers(name: str, value: str) -> None:
    torchrun = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "h", name: value}
    with pytest.raises(UsageError, match=f"{name}='{value}' is not a whole number"):
        Launch.from_environment(torchrun)


def test_msrun_over_hosts_needs_ranks() -> None:
    with pytest.raises(UsageError, match="--node_rank"):
        Launch.from_environment({"MS_ROLE": "MS_WORKER"})


def test_one_process_speaks() -> None:
    speaking = {**MSRUN, "RANK_ID": "0"}
    assert Launch.from_environment(speaking).is_leader
    assert not Launch.from_environment(MSRUN).is_leader
    assert not Launch.from_environment({**speaking, "MS_ROLE": "MS_SCHED"}).is_leader


@pytest.mark.parametrize("value", ["119", "7201", "-1", "2h", ""])
def test_connect_timeout_is_checked(value: str) -> None:
    with pytest.raises(UsageError, match="HCCL_CONNECT_TIMEOUT"):
        warnings(Launch(), "ascend", {"HCCL_CONNECT_TIMEOUT": value})


def test_many_ranks_with_default_timeouts_are_warned() -> None:
    many = Launch.from_environment(MSRUN)
    assert len(warnings(many, "ascend", {})) == len(warnings(many, "npu", {})) == 2
    assert warnings(many, "ascend", {"HCCL_CONNECT_TIMEOUT": "7200", "HCCL_EXEC_TIMEOUT": "7200"}) == []
    assert warnings(many, "cpu", {}) == []


def test_workers_leave_only_with_launchers_that_wait_for_them() -> None:
    assert waits(["python", "bin/msrun", "--worker_num=2", "--join=True", "caption_pllava.py"], {})
    assert waits(["python", "bin/msrun", "--join", "True", "caption_pllava.py"], {})
    assert waits(["python", "bin/torchrun", "caption_pllava.py"], {"TORCHELASTIC_RUN_ID": "none"})
    assert not waits(["python", "bin/msrun", "--worker_num=2", "caption_pllava.py"], {})
    assert not waits(["bash"], {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h"})
    assert not waits(["/sbin/init"], {})
