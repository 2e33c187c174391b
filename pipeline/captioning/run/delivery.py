"""Gathers the results of all ranks on rank 0 and writes them to the output files.

Knows nothing about the model and the framework.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..journal.run_journals import RunJournals
from ..meta.csv_cells import NUL, NUL_REPLACEMENT
from ..meta.files import atomic_write
from ..meta.names import failures_path, outcomes_path, report_path
from ..meta.outcomes import write_outcomes
from ..meta.results import Failure, RowResult
from ..process.errors import RunError
from .plan import Plan
from .planning import LeaderPlan


@dataclass(frozen=True)
class RunResults:
    """The results of all rows that this run had to caption: captions and failures by row, each in order of rows."""

    captions: Mapping[int, RowResult]
    failures: Mapping[int, Failure]

    def most_repeated_captions(self, most: int = 5) -> list[dict[str, Any]]:
        """The captions that more than one row has, with the number of rows: a model may repeat one sentence."""
        repeated = Counter(result.caption for result in self.captions.values()).most_common(most)
        return [{"caption": caption, "rows": count} for caption, count in repeated if count > 1]

    def words_per_caption(self) -> dict[str, float]:
        """Smallest, median and largest number of words in a caption; words are separated by spaces."""
        words = sorted((result.caption or "").count(" ") + 1 for result in self.captions.values())
        return {"least": words[0], "median": words[len(words) // 2], "most": words[-1]} if words else {}

    def partial_rows(self) -> list[int]:
        """Captioned rows whose clips are partial videos: only a part of the file could be decoded."""
        return [row for row, result in self.captions.items() if result.partial]

    def failure_examples(self) -> dict[str, tuple[int, Failure]]:
        """The first failed row of each stage, with its failure."""
        examples: dict[str, tuple[int, Failure]] = {}
        for row, failure in self.failures.items():
            examples.setdefault(failure.stage, (row, failure))
        return examples

    def failures_by_stage(self) -> dict[str, int]:
        """Number of failed rows of each stage, the largest number first."""
        return dict(Counter(failure.stage for failure in self.failures.values()).most_common())


def gather_results(journals: RunJournals, leader: LeaderPlan | None, pad_length: int) -> RunResults | None:
    """The results of all ranks, on rank 0; None on other ranks. Collective: every rank must call it.

    leader: the plan, on rank 0; None on other ranks.
    pad_length: maximum size of a gathered record, in int32 words.

    Raises:
        RunError: on rank 0: a row has no result.
    """
    captions: dict[int, RowResult] = {}
    failures: dict[int, Failure] = {}
    for result in journals.results(pad_length):
        if result.failure is not None:
            failures[result.row] = result.failure
        else:
            captions.setdefault(result.row, result)
    if leader is None:
        return None
    for result in leader.plan.results_of_quarantined():
        assert result.failure is not None
        failures[result.row] = result.failure
    return _complete(leader.plan, captions, failures)


def _complete(plan: Plan, captions: dict[int, RowResult], failures: dict[int, Failure]) -> RunResults:
    wanted = {*plan.pending, *plan.retries, *plan.isolated, *plan.quarantined, *plan.finished}
    missing = sorted(wanted - captions.keys() - failures.keys())
    if missing:
        raise RunError(
            f"{len(missing)} rows have no result (the first is row {missing[0]}): a journal may have been removed"
        )
    return RunResults(
        captions={row: captions[row] for row in sorted(wanted & captions.keys())},
        failures={row: failures[row] for row in sorted(wanted & failures.keys() - captions.keys())},
    )


def write_outputs(output: Path, leader: LeaderPlan, results: RunResults, report: Mapping[str, Any]) -> None:
    """Write failures, outcomes, report, and last the captioned table: when it appears, all other files are complete."""
    paths = leader.table.paths
    _write_failures(failures_path(output), paths, results.failures)
    kept, excluded = leader.plan.kept, leader.plan.excluded
    write_outcomes(outcomes_path(output), paths, kept, excluded, results.captions, results.failures)
    with atomic_write(report_path(output)) as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    captions = dict(kept) | {row: result.caption or "" for row, result in results.captions.items()}
    leader.table.write(output, captions)


def _write_failures(path: Path, paths: Sequence[str], failures: Mapping[int, Failure]) -> None:
    if not failures:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(["row", "path", "stage", "message"])
        for row, failure in failures.items():
            message = "; ".join(failure.messages).replace(NUL, NUL_REPLACEMENT)
            writer.writerow([row, paths[row], failure.stage, message])
