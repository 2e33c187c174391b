"""Which rows are still to be captioned, and in which order. Pure: reads no file, knows no worker."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..journal.reader import Fingerprint
from ..meta.results import RowResult

DEATHS_TO_FAIL = 2
MOST_ISOLATED = 32
"""So many rows can be captioned one by one on one rank; more, as when a host has gone down, can't."""
_SHORT_VALUE = 60
"""Characters of a fingerprint's entry that is told whole."""
_CONTEXT = 20
_LONG_EXCERPT = 160


@dataclass(frozen=True)
class Plan:
    """Every row of the meta table is in exactly one of these.

    kept: rows that keep the caption they have (`--skip_if_existing`), with it.
    finished: rows whose result is in a journal.
    quarantined: rows that were in flight at two deaths of their worker.
    pending: rows to be captioned, in order.
    retries: rows to be captioned after those, in small batches: in flight at one death, with many others.
    isolated: rows to be captioned after all others and alone: in flight at one death, with few others or
        in such a batch.
    excluded: rows beyond `--limit`.
    """

    kept: Mapping[int, str]
    finished: frozenset[int]
    quarantined: tuple[int, ...]
    pending: tuple[int, ...]
    retries: tuple[int, ...]
    isolated: tuple[int, ...]
    excluded: frozenset[int]

    @property
    def is_done(self) -> bool:
        """Neither a row to caption nor a result to write."""
        return not (self.rows_to_caption or self.quarantined or self.finished)

    @property
    def rows_to_caption(self) -> int:
        return len(self.pending) + len(self.retries) + len(self.isolated)

    def results_of_quarantined(self) -> list[RowResult]:
        message = f"in flight at {DEATHS_TO_FAIL} deaths of its worker; left out so that the run can end"
        return [RowResult.failed(row, "worker", [message]) for row in self.quarantined]


def make_plan(
    rows: int,
    kept: Mapping[int, str],
    finished: Collection[int],
    deaths: Mapping[int, int],
    retried: Collection[int] = (),
    limit: int | None = None,
) -> Plan:
    """Sort rows 0..rows-1 into a plan. A kept caption goes before a journal's result.

    deaths: at how many deaths of a worker a row was in flight, retries apart.
    retried: rows in flight at a death while they were being retried.
    limit: consider the first `limit` rows that do not keep a caption.
    """
    done = frozenset(row for row in finished if row < rows and row not in kept)
    open_rows = [row for row in range(rows) if row not in kept]
    wanted = open_rows if limit is None else open_rows[:limit]
    pending: list[int] = []
    in_flight_once: list[int] = []
    quarantined: list[int] = []
    for row in wanted:
        if row in done:
            continue
        count = deaths.get(row, 0)
        kind = pending if count == 0 else in_flight_once if count < DEATHS_TO_FAIL else quarantined
        kind.append(row)
    retries = [row for row in in_flight_once if row not in retried]
    if len(retries) <= MOST_ISOLATED:
        retries = []
    isolated = sorted(set(in_flight_once) - set(retries))
    return Plan(
        kept=kept,
        finished=done,
        quarantined=tuple(quarantined),
        pending=tuple(pending),
        retries=tuple(retries),
        isolated=tuple(isolated),
        excluded=frozenset(open_rows[len(wanted) :]) - done,
    )


def fingerprint_difference(found: Fingerprint, wanted: Fingerprint) -> list[str]:
    """One line per entry in which a journal's fingerprint differs from this run's; of long values what differs."""
    return [
        f"{name}: {_difference(found.get(name, '(none)'), wanted.get(name, '(none)'))}"
        for name in sorted(set(found) | set(wanted))
        if found.get(name) != wanted.get(name)
    ]


def _difference(there: str, now: str) -> str:
    if max(len(there), len(now)) <= _SHORT_VALUE:
        return f"{there} there, {now} now"
    begin = _common(there, now)
    end = _common(there[begin:][::-1], now[begin:][::-1])
    return f"{_excerpt(there, begin, end)} there, {_excerpt(now, begin, end)} now"


def _common(one: str, other: str) -> int:
    """How many characters two strings have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _excerpt(value: str, begin: int, end: int) -> str:
    """What stands between the first `begin` and the last `end` characters, with some context; the middle is cut out
    of much. Quoted, so that differences in white space are seen."""
    start, stop = max(0, begin - _CONTEXT), min(len(value), len(value) - end + _CONTEXT)
    part = value[start:stop]
    if len(part) > _LONG_EXCERPT:
        part = f"{part[: _LONG_EXCERPT // 2]} … {part[-_LONG_EXCERPT // 2 :]}"
    return f"{'…' if start else ''}'{_visible(part)}'{'…' if stop < len(value) else ''}"


def _visible(text: str) -> str:
    """Line ends and runs of blanks as escapes: messages are printed as one line with single blanks."""
    escaped = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return re.sub(" {2,}", lambda blanks: "\\x20" * len(blanks[0]), escaped)
