"""Rows are leased to ranks in blocks that become smaller, so that all ranks end at about the same time.

Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers, 1987): a block is a fixed share of
the rows that are left. Knows no network and no journal.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PENDING = "pending"
RETRIES = "retries"
"""The two kinds of rows that any rank may caption. Rows that are captioned alone stay with rank 0."""

MOST_ROWS = 256
"""In one lease at most. Another request is cheap, so larger leases would bring nothing."""
SHARES = 8
"""A lease is 1 / SHARES of what a rank would get if the rows that are left were divided equally."""
LEAST_AHEAD = 2
"""Clips that may be decoded ahead near the end of a run: one that takes long does not hold up the other."""


@dataclass(frozen=True)
class Lease:
    """Rows for one rank to caption.

    rows: (row, path) pairs; none: no row of this kind is left.
    ahead: clips worth having decoded ahead of the device now. Near the end of a run they are few, because no other
        rank can take them.
    """

    rows: Sequence[tuple[int, str]]
    ahead: int

    def to_json(self) -> Any:
        return [self.rows, self.ahead]

    @classmethod
    def from_json(cls, value: Any) -> Lease:
        rows, ahead = value
        return cls([(row, path) for row, path in rows], ahead)


class RowPool:
    """The rows that nobody has yet, on rank 0. Not safe for threads.

    paths: of all rows of the table; rows: for each kind, the rows to lease.
    """

    def __init__(self, paths: Sequence[str], rows: Mapping[str, Sequence[int]], world_size: int) -> None:
        self._paths, self._rows, self._world_size = paths, rows, world_size
        self._taken = dict.fromkeys(rows, 0)
        self._last: dict[int, tuple[int, Lease]] = {}

    def lease(self, rank: int, number: int, kind: str) -> Lease:
        """The next rows of a kind.

        number: of this rank's leases. The last number again, or an earlier one that comes late, gets the last rows
            again, because an answer may be lost on its way.
        """
        last_number, last = self._last.get(rank, (-1, None))
        if last is not None and number <= last_number:
            return last
        rows, taken = self._rows.get(kind, ()), self._taken.get(kind, 0)
        left = len(rows) - taken
        share = left if self._world_size == 1 else max(1, left // (SHARES * self._world_size))
        block = rows[taken : taken + min(share, MOST_ROWS)]
        self._taken[kind] = taken + len(block)
        lease = Lease([(row, self._paths[row]) for row in block], max(LEAST_AHEAD, share))
        self._last[rank] = number, lease
        return lease


class LeasedRows:
    """The rows of one kind, as a rank takes them: an iterator of (row, path) that leases rows when they are wanted.

    lease: asks rank 0 for rows; note: called with the rows of each lease.
    """

    def __init__(self, lease: Callable[[], Lease], note: Callable[[Sequence[int]], None]) -> None:
        self._lease, self._note = lease, note
        self._rows: deque[tuple[int, str]] = deque()
        self._has_ended = False
        self._ahead = sys.maxsize

    @property
    def has_rows(self) -> bool:
        """Whether there is a row left for this rank; asks rank 0 if need be."""
        if not self._rows and not self._has_ended:
            lease = self._lease()
            self._rows.extend(lease.rows)
            self._has_ended = not lease.rows
            self._ahead = lease.ahead
            if lease.rows:
                self._note([row for row, _ in lease.rows])
        return bool(self._rows)

    def worth_ahead(self) -> int:
        """Clips worth having decoded ahead at present."""
        return self._ahead

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self

    def __next__(self) -> tuple[int, str]:
        if not self.has_rows:
            raise StopIteration
        return self._rows.popleft()
