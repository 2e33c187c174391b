"""Which launcher started this process, and whether its environment is valid."""

from __future__ import annotations

import pytest

from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.process.supervisor import waits_for_workers
from pipeline.captioning.workers.launch import Launch
from pipeline.captioning.workers.launch_checks import warnings

MSRUN = {"MS_ROLE": "MS_WORKER", "RANK_ID": "5", "MS_WORKER_NUM": "16", "DEVICE_ID": "1", "MS_SCHED_HOST": "10.0.0.1"}


def test_each_launcher_is_recognized() -> None:
    assert Launch.from_environment({}) == Launch()
    assert Launch.from_environment(MSRUN) == Launch("msrun", False, 5, 16, 1, "10.0.0.1")
    torchrun = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "h"}
    assert Launch.from_environment(torchrun) == Launch("torchrun", False, 2, 4, 0, "h")


def test_every_rank_reports_usage_errors_if_its_local_rank_is_not_known() -> None:
    """Ranks started by hand have RANK and WORLD_SIZE, but not the variables that torchrun adds."""
    by_hand = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "h"}
    launch = Launch.from_environment(by_hand)
    assert launch.local_rank is None and launch.reports_usage_errors, "maybe no other process reports it"
    complete = Launch.from_environment({**by_hand, "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"})
    assert (complete.local_rank, complete.local_workers, complete.reports_usage_errors) == (3, 4, False)
    assert Launch.from_environment({**by_hand, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}).reports_usage_errors
    assert Launch.from_environment(MSRUN).local_rank == 1 and not Launch.from_environment(MSRUN).reports_usage_errors


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", ""), ("RANK", "first"), ("WORLD_SIZE", "4.0")])
def test_a_variable_that_is_no_whole_number_is_a_usage_error(name: str, value: str) -> None:
    torchrun = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "h", name: value}
    with pytest.raises(UsageError, match=f"{name}='{value}' is not a whole number"):
        Launch.from_environment(torchrun)


def test_msrun_on_several_hosts_needs_node_rank() -> None:
    with pytest.raises(UsageError, match="--node_rank"):
        Launch.from_environment({"MS_ROLE": "MS_WORKER"})


def test_only_the_worker_of_rank_0_is_the_leader() -> None:
    leader = {**MSRUN, "RANK_ID": "0"}
    assert Launch.from_environment(leader).is_leader
    assert not Launch.from_environment(MSRUN).is_leader
    assert not Launch.from_environment({**leader, "MS_ROLE": "MS_SCHED"}).is_leader


@pytest.mark.parametrize("value", ["119", "7201", "-1", "2h", ""])
def test_an_invalid_connect_timeout_is_a_usage_error(value: str) -> None:
    with pytest.raises(UsageError, match="HCCL_CONNECT_TIMEOUT"):
        warnings(Launch(), "ascend", {"HCCL_CONNECT_TIMEOUT": value})


def test_many_ranks_with_default_timeouts_cause_warnings() -> None:
    many = Launch.from_environment(MSRUN)
    assert len(warnings(many, "ascend", {})) == len(warnings(many, "npu", {})) == 2
    assert warnings(many, "ascend", {"HCCL_CONNECT_TIMEOUT": "7200", "HCCL_EXEC_TIMEOUT": "7200"}) == []
    assert warnings(many, "cpu", {}) == []


def test_which_launchers_wait_for_their_workers() -> None:
    assert waits_for_workers(["python", "bin/msrun", "--worker_num=2", "--join=True", "caption_pllava.py"], {})
    assert waits_for_workers(["python", "bin/msrun", "--join", "True", "caption_pllava.py"], {})
    assert waits_for_workers(["python", "bin/torchrun", "caption_pllava.py"], {"TORCHELASTIC_RUN_ID": "none"})
    assert not waits_for_workers(["python", "bin/msrun", "--worker_num=2", "caption_pllava.py"], {})
    assert not waits_for_workers(["bash"], {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h"})
    assert not waits_for_workers(["/sbin/init"], {})
