"""The plan of a run: which rows are to be captioned, and in which order.

Knows nothing about files and workers: the plan depends only on the arguments.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..journal.reader import Fingerprint
from ..meta.results import RowResult

DEATHS_TO_QUARANTINE = 2
"""A row that was in flight at this many deaths of its worker is not captioned again."""
MAX_ISOLATED = 32
"""If at most this many rows were in flight at one death, they are isolated. More rows, as when a host went down, are
first retried in small batches, because captioning one row at a time on one rank is slow."""
_SHORT_VALUE = 60
"""Longest value of a fingerprint's entry that messages show whole, in characters."""
_CONTEXT = 20
"""Characters that messages show before and after a difference."""
_LONG_EXCERPT = 160
"""Longest excerpt of a value that messages show, in characters."""


@dataclass(frozen=True)
class Plan:
    """Sorts the rows: every row of the meta table is in exactly one of these groups, or keeps all its captions.

    columns: the columns that receive captions, in order.
    kept: for each column, rows that keep their existing caption (`--skip_if_existing`), with that caption.
    finished: rows whose results are in journals, for each column that does not keep its caption.
    quarantined: rows that were in flight at two deaths of a worker. They become failures.
    pending: rows to caption, in order.
    retries: rows to caption after the pending rows, in small batches: they were in flight when a worker died, together
        with many other rows.
    isolated: rows to caption after all other rows, one at a time: they were in flight when a worker died, together
        with few other rows, or while they were retried in a small batch.
    excluded: rows beyond `--limit`. Some of their columns may have captions.
    wanted: for rows that are to be captioned or quarantined, the numbers of the columns that are still without a
        result. A row that is not in it lacks all columns.
    """

    columns: tuple[str, ...]
    kept: Mapping[str, Mapping[int, str]]
    finished: frozenset[int]
    quarantined: tuple[int, ...]
    pending: tuple[int, ...]
    retries: tuple[int, ...]
    isolated: tuple[int, ...]
    excluded: frozenset[int]
    wanted: Mapping[int, tuple[int, ...]]

    @property
    def is_done(self) -> bool:
        """Whether there is no row to caption and no result to write."""
        return not (self.rows_to_caption or self.quarantined or self.finished)

    @property
    def rows_to_caption(self) -> int:
        return len(self.pending) + len(self.retries) + len(self.isolated)

    @property
    def kept_captions(self) -> int:
        """Number of captions that are kept."""
        return sum(map(len, self.kept.values()))

    def in_order(self) -> Iterator[int]:
        """The rows to caption, in the order in which they begin."""
        return itertools.chain(self.pending, self.retries, self.isolated)

    def wanted_columns(self, row: int) -> tuple[str, ...]:
        """The columns of a row that are to be captioned."""
        numbers = self.wanted.get(row)
        return self.columns if numbers is None else tuple(self.columns[number] for number in numbers)

    def results_of_quarantined(self) -> list[RowResult]:
        """The failures of the quarantined rows."""
        message = f"in flight at {DEATHS_TO_QUARANTINE} deaths of its worker; quarantined so that the run can end"
        return [RowResult.failed(row, self.wanted_columns(row), "worker", [message]) for row in self.quarantined]


def make_plan(
    rows: int,
    columns: Sequence[str],
    kept: Mapping[str, Mapping[int, str]],
    finished: Mapping[str, Collection[int]],
    deaths: Mapping[int, int],
    retried: Collection[int] = (),
    limit: int | None = None,
) -> Plan:
    """Sort rows 0..rows-1 into a plan. A kept caption takes precedence over a journal's result.

    columns: the columns that receive captions, at least one.
    kept: for each column, captions to keep, by row.
    finished: for each column, rows with a result in a journal.
    deaths: for each row, how many times a worker died with the row in flight; deaths during retries do not count.
    retried: rows that were in flight when a worker died during their retry.
    limit: consider only the first `limit` rows that do not keep a caption in every column; None for all.
    """
    groups = {column: (kept.get(column, {}), finished.get(column, ())) for column in columns}
    done: list[int] = []
    excluded: list[int] = []
    pending: list[int] = []
    in_flight_once: list[int] = []
    quarantined: list[int] = []
    wanted: dict[int, tuple[int, ...]] = {}
    of_columns = list(enumerate(groups.values()))
    numbers_seen: dict[tuple[int, ...], tuple[int, ...]] = {}  # most of a million rows want the same columns
    not_kept = 0
    for row in range(rows):
        numbers = tuple([n for n, (is_kept, has_result) in of_columns if row not in is_kept and row not in has_result])
        if not numbers and all(row in is_kept for _, (is_kept, _) in of_columns):
            continue
        not_kept += 1
        if not numbers:
            done.append(row)
            continue
        if limit is not None and not_kept > limit:
            excluded.append(row)
            continue
        if len(numbers) < len(of_columns):
            wanted[row] = numbers_seen.setdefault(numbers, numbers)
        count = deaths.get(row, 0)
        group = pending if count == 0 else in_flight_once if count < DEATHS_TO_QUARANTINE else quarantined
        group.append(row)
    retries = [row for row in in_flight_once if row not in retried]
    if len(retries) <= MAX_ISOLATED:
        retries = []
    isolated = sorted(set(in_flight_once) - set(retries))
    return Plan(
        columns=tuple(columns),
        kept={column: is_kept for column, (is_kept, _) in groups.items()},
        finished=frozenset(done),
        quarantined=tuple(quarantined),
        pending=tuple(pending),
        retries=tuple(retries),
        isolated=tuple(isolated),
        excluded=frozenset(excluded),
        wanted=wanted,
    )


def fingerprint_difference(found: Fingerprint, wanted: Fingerprint, place: str = "in the journals") -> list[str]:
    """Compare an earlier fingerprint with that of this run; returns one line for each entry that differs.

    Of long values, a line shows only the part that differs. place: where the earlier one is.
    """
    return [
        f"{name}: {_difference(found.get(name, '(none)'), wanted.get(name, '(none)'), place)}"
        for name in sorted(set(found) | set(wanted))
        if found.get(name) != wanted.get(name)
    ]


def _difference(found: str, wanted: str, place: str) -> str:
    if max(len(found), len(wanted)) <= _SHORT_VALUE:
        return f"{found} {place}, {wanted} now"
    begin = _common_prefix_length(found, wanted)
    end = _common_prefix_length(found[begin:][::-1], wanted[begin:][::-1])
    return f"{_excerpt(found, begin, end)} {place}, {_excerpt(wanted, begin, end)} now"


def _common_prefix_length(one: str, other: str) -> int:
    """Number of characters that two strings have in common at their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _excerpt(value: str, begin: int, end: int) -> str:
    """The part of `value` without its first `begin` and last `end` characters, but with some context.

    The middle of a long part is left out. The part is quoted, so that differences in white space are visible.
    """
    start, stop = max(0, begin - _CONTEXT), min(len(value), len(value) - end + _CONTEXT)
    part = value[start:stop]
    if len(part) > _LONG_EXCERPT:
        part = f"{part[: _LONG_EXCERPT // 2]} … {part[-_LONG_EXCERPT // 2 :]}"
    return f"{'…' if start else ''}'{_visible(part)}'{'…' if stop < len(value) else ''}"


def _visible(text: str) -> str:
    """Write line ends and repeated spaces as escape sequences: messages are printed on one line with single spaces."""
    escaped = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return re.sub(" {2,}", lambda spaces: "\\x20" * len(spaces[0]), escaped)
