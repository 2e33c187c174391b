"""Gathers the results of all ranks on rank 0 and writes them to the output files.

Knows nothing about the model and the framework.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..journal.run_journals import RunJournals
from ..meta.csv_cells import NUL, NUL_REPLACEMENT
from ..meta.files import atomic_write
from ..meta.names import RANGE_COLUMNS, failures_path, outcomes_path, report_path
from ..meta.outcomes import write_outcomes
from ..meta.results import CaptionResult, ColumnResults, Failure, RowResult
from ..meta.table import MetaTable
from ..process.errors import RunError
from .plan import Plan
from .planning import LeaderPlan


@dataclass(frozen=True)
class RunResults:
    """The results of all rows that this run had to caption.

    columns: the results of each column, in the order of the run's columns.
    partial: captioned rows whose clips are partial videos: only a part of the file could be decoded.
    images: captioned rows whose clips are still images.
    measured: `RowResult.measured` of the rows about which the run measured something.
    """

    columns: Mapping[str, ColumnResults]
    partial: frozenset[int]
    images: frozenset[int]
    measured: Mapping[int, Mapping[str, float]]

    @property
    def captioned(self) -> int:
        """Number of captions of all columns."""
        return sum(len(results.captions) for results in self.columns.values())

    @property
    def failed(self) -> int:
        """Number of failures of all columns."""
        return sum(len(results.failures) for results in self.columns.values())

    def captioned_rows(self) -> int:
        """Number of rows with at least one caption."""
        first, *others = (results.captions.keys() for results in self.columns.values())
        return len(first) if not others else len(set(first).union(*others))

    def finished_rows(self) -> int:
        """Number of rows with at least one caption or failure."""
        return len(set().union(*(one.captions.keys() | one.failures.keys() for one in self.columns.values())))

    def failed_rows(self) -> int:
        """Number of rows with at least one failure."""
        return len({row for results in self.columns.values() for row in results.failures})

    def failures(self) -> Iterator[tuple[int, str, Failure]]:
        """All failures, as (row, column, failure), in order of rows; those of one row in order of columns."""
        found = [(row, i) for i, results in enumerate(self.columns.values()) for row in results.failures]
        columns = list(self.columns)
        for row, i in sorted(found):
            yield row, columns[i], self.columns[columns[i]].failures[row]

    def failure_examples(self) -> dict[str, tuple[int, str, Failure]]:
        """The first failure of each stage, as (row, column, failure)."""
        examples: dict[str, tuple[int, str, Failure]] = {}
        for row, column, failure in self.failures():
            examples.setdefault(failure.stage, (row, column, failure))
        return examples

    def failures_by_stage(self) -> dict[str, int]:
        """Number of failures of each stage, the largest number first."""
        return dict(Counter(failure.stage for _, _, failure in self.failures()).most_common())


def gather_results(journals: RunJournals, leader: LeaderPlan | None, pad_length: int) -> RunResults | None:
    """The results of all ranks, on rank 0; None on other ranks. Collective: every rank must call it.

    leader: the plan, on rank 0; None on other ranks.
    pad_length: maximum size of a gathered record, in int32 words.

    Raises:
        RunError: on rank 0: a row has no result.
    """
    gathered = _Gathered(leader.plan.columns if leader is not None else ())
    for result in journals.results(pad_length):
        gathered.add(result)
    if leader is None:
        return None
    for result in leader.plan.results_of_quarantined():
        gathered.add(result)
    return gathered.complete(leader.plan)


class _Gathered:
    """The results of all columns so far. A row may be added several times; a caption takes precedence over failures."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._captions: dict[str, dict[int, CaptionResult]] = {column: {} for column in columns}
        self._failures: dict[str, dict[int, Failure]] = {column: {} for column in columns}
        self._partial: set[int] = set()
        self._images: set[int] = set()
        self._measured: dict[int, Mapping[str, float]] = {}

    def add(self, result: RowResult) -> None:
        for column, one in result.results.items():
            if isinstance(one, Failure):
                self._failures[column][result.row] = one
            else:
                self._captions[column].setdefault(result.row, one)
        if result.measured and (result.has_caption or result.row not in self._measured):
            self._measured[result.row] = result.measured
        if result.has_caption:
            if result.partial:
                self._partial.add(result.row)
            if result.is_image:
                self._images.add(result.row)

    def complete(self, plan: Plan) -> RunResults:
        """The results that the plan wants, in order of rows.

        Raises:
            RunError: a row has no result.
        """
        wanted = [*plan.in_order(), *plan.quarantined, *plan.finished]
        missing: set[int] = set()
        columns: dict[str, ColumnResults] = {}
        for column, kept in plan.kept.items():
            # Each is removed from the dictionaries when it is in order: a million results are 0.5 GB.
            captions, failures = self._captions.pop(column), self._failures.pop(column)
            missing.update(row for row in wanted if not (row in captions or row in failures or row in kept))
            columns[column] = ColumnResults(
                captions={row: captions[row] for row in sorted(captions.keys() - kept.keys())},
                failures={row: failures[row] for row in sorted(failures.keys() - captions.keys() - kept.keys())},
            )
        if missing:
            raise RunError(
                f"{len(missing)} rows have no result (the first is row {min(missing)}): a journal may have been removed"
            )
        partial, images = (
            frozenset(row for row in rows if any(row in results.captions for results in columns.values()))
            for rows in (self._partial, self._images)
        )
        return RunResults(columns, partial, images, self._measured)


def write_outputs(output: Path, leader: LeaderPlan, results: RunResults, report: Mapping[str, Any]) -> None:
    """Write failures, outcomes, report, and last the captioned table: when it appears, all other files are complete."""
    table, plan = leader.table, leader.plan
    _write_failures(failures_path(output), table, results)
    marks = results.partial, results.images, table.ranges, results.measured
    write_outcomes(outcomes_path(output), table.paths, results.columns, plan.kept, plan.excluded, *marks)
    with atomic_write(report_path(output)) as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    captions = {column: _texts(leader, results, column) for column in plan.columns}
    table.write(output, {**leader.other_captions, **captions})


def _texts(leader: LeaderPlan, results: RunResults, column: str) -> list[str]:
    """The caption of every row in a column; '' for none."""
    texts = [""] * len(leader.table.paths)
    for row, text in leader.plan.kept[column].items():
        texts[row] = text
    for row, result in results.columns[column].captions.items():
        texts[row] = result.caption
    return texts


def _write_failures(path: Path, table: MetaTable, results: RunResults) -> None:
    if not results.failed:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        times = RANGE_COLUMNS if table.ranges else ()
        writer.writerow(["row", "path", *times, "column", "stage", "message"])
        for row, column, failure in results.failures():
            message = "; ".join(failure.messages).replace(NUL, NUL_REPLACEMENT)
            part = table.range_of(row)
            cells = part.cells if part is not None else [""] * len(times)
            writer.writerow([row, table.paths[row], *cells, column, failure.stage, message])
