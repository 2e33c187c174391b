"""The limit of waiting tokens: pauses, smaller files, and back to the old size."""

from __future__ import annotations

import pytest

from pipeline.captioning.captioners.api.batch import queue_limit
from pipeline.captioning.captioners.api.batch.queue_limit import Next, QueueLimit


def test_limit_held_by_another_job_leaves_large_files_and_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(queue_limit.time, "monotonic", lambda: now[0])
    limit, pauses, size = QueueLimit(20, 1000, 60.0), [], 1000
    while now[0] < 1000 + 20 * 60:
        limit.reached(size, was_alone=True)
        begin = now[0]
        while limit.is_pausing:
            now[0] += 1
        pauses.append(now[0] - begin)
        size = limit.max_requests
    assert pauses == [60, 120, 240, 480, 600] and size == 250 and limit.max_open == 1
    for name in "aabcde":
        limit.accepted(name)
    assert (limit.max_open, limit.max_requests) == (20, 1000)


def test_small_files_become_smaller_only_after_many_tries() -> None:
    limit = QueueLimit(20, 1000, 0.0)
    assert [limit.reached(150, True) for _ in range(2)] == [Next.AGAIN, Next.SMALLER] and limit.max_requests == 100
    assert [limit.reached(100, True) for _ in range(6)] == [Next.AGAIN] * 5 + [
        Next.SMALLER
    ] and limit.max_requests == 50
    assert [limit.reached(1, True) for _ in range(6)] == [Next.AGAIN] * 5 + [Next.FAIL]
    assert limit.reached(1, was_alone=False) is Next.AGAIN
