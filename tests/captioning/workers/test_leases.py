"""Rows are leased in blocks that become smaller, and each row is leased once."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captioning.workers.leases import MAX_LEASE_ROWS, PENDING, RETRIES, Lease, LeasedRows, RowPool, RowTask


@given(rows=st.integers(0, 3000), world_size=st.integers(1, 40), order=st.randoms(use_true_random=False))
def test_every_row_is_leased_once_in_any_order_of_requests(rows: int, world_size: int, order) -> None:  # type: ignore[no-untyped-def]
    pool = RowPool(lambda row: RowTask(row, f"{row}.mp4"), {PENDING: range(rows)}, world_size)
    numbers, leased = [0] * world_size, []
    while True:
        rank = order.randrange(world_size)
        numbers[rank] += 1
        lease = pool.lease(rank, numbers[rank], PENDING)
        assert len(lease.rows) <= MAX_LEASE_ROWS
        if not lease.rows:
            break
        leased += lease.rows
    assert leased == [RowTask(row, f"{row}.mp4") for row in range(rows)]


@pytest.mark.parametrize("speeds", [[3, 1], [1, 1], [8, 8, 8, 1], [1] * 16])
def test_ranks_of_different_speeds_end_together(speeds: Sequence[int]) -> None:
    """A rank takes `1 / speed` for a row; the run takes at most 1.1 times the ideal time."""
    rows = 400
    pool = RowPool(lambda row: RowTask(row, "x"), {PENDING: range(rows)}, len(speeds))
    busy_until, numbers = [0.0] * len(speeds), [0] * len(speeds)
    while True:
        rank = min(range(len(speeds)), key=lambda rank: busy_until[rank])
        numbers[rank] += 1
        lease = pool.lease(rank, numbers[rank], PENDING)
        if not lease.rows:
            break
        busy_until[rank] += len(lease.rows) / speeds[rank]
    assert max(busy_until) <= 1.1 * rows / sum(speeds)


def test_kinds_are_leased_separately_and_a_repeated_request_gets_the_same_lease() -> None:
    pool = RowPool(lambda row: RowTask(row, "abcd"[row]), {PENDING: [0, 2], RETRIES: [3]}, 1)
    first = pool.lease(0, 1, PENDING)
    assert first.rows == [RowTask(0, "a"), RowTask(2, "c")] and pool.lease(0, 1, PENDING) is first
    assert pool.lease(0, 2, PENDING).rows == [] and pool.lease(0, 3, RETRIES).rows == [RowTask(3, "d")]


def test_a_lease_carries_the_cells_and_the_wanted_questions_of_its_rows() -> None:
    lease = Lease([RowTask(4, "e", ("a cell", ""), (1, 2)), RowTask(5, "f")], 3)
    assert Lease.from_json(json.loads(json.dumps(lease.to_json()))) == lease


def test_an_old_request_that_arrives_late_takes_no_rows() -> None:
    """Its rank has closed the connection and sent a new request, so it does not wait for this answer."""
    pool = RowPool(lambda row: RowTask(row, "abcdef"[row]), {PENDING: range(6)}, 2)
    for number in (1, 2, 1):
        lease = pool.lease(0, number, PENDING)
    assert lease.rows == [RowTask(1, "b")] and pool.lease(1, 1, PENDING).rows == [RowTask(2, "c")]


def test_a_rank_leases_rows_when_it_has_none_and_reports_each_lease() -> None:
    leases = iter([Lease([RowTask(4, "e"), RowTask(5, "f")], 9), Lease([RowTask(6, "g")], 2), Lease([], 2)])
    leased_rows: list[Sequence[int]] = []
    rows = LeasedRows(lambda: next(leases), leased_rows.append)
    assert next(rows) == RowTask(4, "e") and leased_rows == [[4, 5]] and rows.clips_ahead() == 9
    assert list(rows) == [RowTask(5, "f"), RowTask(6, "g")] and leased_rows == [[4, 5], [6]]
    assert not rows.has_rows and rows.clips_ahead() == 2
