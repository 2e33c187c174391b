"""Another run follows in the same world, also if a rank is late."""

from __future__ import annotations

import time

import pytest

from pipeline.captioning.workers import heartbeat
from pipeline.captioning.workers.world import World
from scripts.thread_ranks import run_ranks


def test_a_late_rank_takes_the_exit_code_before_the_next_run_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_MAX_WAIT_AFTER_DECISION", 0.3)

    def two_runs(world: World) -> list[int]:
        codes = []
        for run in range(2):
            if world.is_leader:
                world.decide(run)
            world.barrier()
            if not world.is_leader:
                time.sleep(1.0)
            codes.append(world.exit_code())
            world.barrier()
            world.report_counts(1, 0, 1)
            world.begin_next_run()
        assert world.snapshot.exit_code is None
        return codes

    assert run_ranks(2, two_runs, timeout=30) == [[0, 1], [0, 1]]
