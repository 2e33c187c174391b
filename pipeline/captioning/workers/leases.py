"""Leases rows to ranks in blocks that become smaller, so that all ranks end at about the same time.

Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers, 1987): a block is a fixed share of
the remaining rows. Knows nothing about the network or the journal.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..clips.clip import ClipTask
from ..clips.time_range import TimeRange

PENDING = "pending"
RETRIES = "retries"
"""The two kinds of rows that any rank may caption. Isolated rows are captioned by rank 0 only, one by one."""

MAX_LEASE_ROWS = 256
"""A request costs little, so larger leases would bring no gain."""
SHARES = 8
"""A lease is 1 / SHARES of the rows that a rank would get if the remaining rows were divided equally."""
MIN_AHEAD = 2
"""Clips that may be decoded ahead near the end of a run. With two, a slow clip does not delay the other one."""


@dataclass(frozen=True, slots=True)
class RowTask:
    """A row to caption.

    cells: the cells of the row that its questions contain, in the order of `Asks.cell_columns`.
    wanted: numbers of the questions to ask; empty for all.
    range: the part of the file that the row is about; None for the whole file.
    """

    row: int
    path: str
    cells: tuple[str, ...] = ()
    wanted: tuple[int, ...] = ()
    range: TimeRange | None = None

    @property
    def clip(self) -> ClipTask:
        """What a loader needs to load the clip."""
        return ClipTask(self.row, self.path, self.range)

    def to_json(self) -> Any:
        return [self.row, self.path, self.cells, self.wanted, self.range.to_json() if self.range else None]

    @classmethod
    def from_json(cls, value: Any) -> RowTask:
        row, path, cells, wanted, part = value
        return cls(row, path, tuple(cells), tuple(wanted), TimeRange.from_json(part) if part else None)


@dataclass(frozen=True)
class Lease:
    """Rows for one rank to caption.

    rows: empty if no rows of this kind remain.
    ahead: number of clips to decode ahead of the device. It is small near the end of a run, because no other rank can
        take the rows that this rank has leased.
    """

    rows: Sequence[RowTask]
    ahead: int

    def to_json(self) -> Any:
        return [[task.to_json() for task in self.rows], self.ahead]

    @classmethod
    def from_json(cls, value: Any) -> Lease:
        rows, ahead = value
        return cls([RowTask.from_json(task) for task in rows], ahead)


class RowPool:
    """The rows that are not leased yet, on rank 0. Not thread-safe.

    task_of: makes the task of a row.
    rows: for each kind, the rows to lease.
    max_rows: most rows of a lease.
    """

    def __init__(
        self,
        task_of: Callable[[int], RowTask],
        rows: Mapping[str, Sequence[int]],
        world_size: int,
        max_rows: int = MAX_LEASE_ROWS,
    ) -> None:
        self._task_of, self._rows, self._world_size, self._max_rows = task_of, rows, world_size, max_rows
        self._taken = dict.fromkeys(rows, 0)
        self._last: dict[int, tuple[int, Lease]] = {}

    def lease(self, rank: int, request_number: int, kind: str) -> Lease:
        """Lease the next rows of a kind.

        request_number: counts this rank's requests. A request with the last number, or with an earlier one because it
            arrives late, gets the last lease again: the answer may have been lost.
        """
        last_number, last = self._last.get(rank, (-1, None))
        if last is not None and request_number <= last_number:
            return last
        rows, taken = self._rows.get(kind, ()), self._taken.get(kind, 0)
        remaining = len(rows) - taken
        share = remaining if self._world_size == 1 else max(1, remaining // (SHARES * self._world_size))
        block = rows[taken : taken + min(share, self._max_rows)]
        self._taken[kind] = taken + len(block)
        lease = Lease([self._task_of(row) for row in block], max(MIN_AHEAD, share))
        self._last[rank] = request_number, lease
        return lease


class LeasedRows:
    """Iterator over the tasks of one kind on one rank. It leases more rows when it has none.

    lease: requests rows from rank 0.
    on_lease: called with the rows of each lease.
    """

    def __init__(self, lease: Callable[[], Lease], on_lease: Callable[[Sequence[int]], None]) -> None:
        self._lease, self._on_lease = lease, on_lease
        self._rows: deque[RowTask] = deque()
        self._has_ended = False
        self._ahead = sys.maxsize

    @property
    def has_rows(self) -> bool:
        """Whether this rank can take another row; requests rows from rank 0 if this rank has none."""
        if not self._rows and not self._has_ended:
            lease = self._lease()
            self._rows.extend(lease.rows)
            self._has_ended = not lease.rows
            self._ahead = lease.ahead
            if lease.rows:
                self._on_lease([task.row for task in lease.rows])
        return bool(self._rows)

    def clips_ahead(self) -> int:
        """Number of clips to decode ahead now; see `Lease.ahead`."""
        return self._ahead

    def __iter__(self) -> Iterator[RowTask]:
        return self

    def __next__(self) -> RowTask:
        if not self.has_rows:
            raise StopIteration
        return self._rows.popleft()
