"""Gathered records of any size and number arrive complete on every rank."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioning.workers.gather import gather_records
from scripts.thread_ranks import run_ranks

RECORDS = st.lists(st.lists(st.binary(max_size=70), max_size=6), min_size=1, max_size=4)


@settings(deadline=None, max_examples=30)
@given(RECORDS, st.sampled_from([4, 64, 4096]))
def test_all_records_arrive_on_all_ranks(records: list[list[bytes]], round_bytes: int) -> None:
    def rank_main(world):  # type: ignore[no-untyped-def]
        return list(gather_records(world._collectives, records[world.rank], round_bytes))

    results = run_ranks(len(records), rank_main)
    expected = sorted(record for own in records for record in own)
    assert all(sorted(result) == expected for result in results)
    # A rank's own records keep their order.
    for result in results:
        if len(records) == 1:
            assert result == records[0]


def test_broadcast_returns_the_records_of_rank_0() -> None:
    results = run_ranks(3, lambda world: list(world.broadcast([b"zero"] if world.is_leader else [b"not mine"])))
    assert results == [[b"zero"]] * 3


def test_gathered_json_values_are_in_order_of_rank() -> None:
    assert run_ranks(3, lambda world: world.gather_json({"rank": world.rank}))[1] == [{"rank": r} for r in range(3)]
