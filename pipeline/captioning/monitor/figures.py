"""The figures of a run as JSON, for `progress` and other programs: from its journals, or after its end from its report.

Knows nothing about terminals.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..journal.folder import planned_at
from ..meta.names import outcomes_path, report_path
from .journal_monitor import JournalMonitor
from .run_progress import FailureExample, RunProgress, state_of
from .service_usage import COST_OF_ALL
from .speed import seconds_left
from .video_counts import VideoCounts, finished_counts


def poll(
    monitor: JournalMonitor, output: Path, silent_seconds: float, videos: VideoCounts | None = None
) -> dict[str, Any]:
    """The figures of the run that writes `output`.

    videos: counts the videos of the run's table; None: they are counted only after the end of the run.

    States in addition to those of `run_progress.state_of`:

    `waiting`: the run has not started.
    `finished`: the report is written.
    `gone`: an earlier poll found journals, but they were removed, and there is no report. The output is on another
    host.
    """
    progress = monitor.poll()
    if progress is not None:
        return _figures(progress, monitor, time.time(), silent_seconds, videos)
    planned, reported = planned_at(monitor.folder), _modified_at(report_path(output))
    if reported is not None and (planned is None or reported > planned):
        return _finished_figures(output, reported)
    state = "gone" if monitor.last is not None and planned is None else "waiting"
    return _figures(monitor.last or RunProgress(), monitor, time.time(), silent_seconds, videos) | {"state": state}


def last_report(output: Path) -> dict[str, Any] | None:
    """The figures of the last run that has ended; None if there is no report. `poll` gives those of the present run.

    They differ after a run that was stopped before it captioned: it leaves a journal folder without journals.
    """
    reported = _modified_at(report_path(output))
    return None if reported is None else _finished_figures(output, reported)


def _modified_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _figures(
    progress: RunProgress, monitor: JournalMonitor, now: float, silent_seconds: float, videos: VideoCounts | None
) -> dict[str, Any]:
    """The figures of a run that has not ended. Rows are those of all runs in the journals."""
    state, silent = state_of(progress, now, silent_seconds)
    rates = {rank.rank: monitor.clips_per_second(rank) for rank in progress.ranks}
    working = progress.working_ranks
    left = None if progress.ranks_elsewhere else seconds_left(progress.remaining, sum(rates.values()))
    return {
        "state": state,
        "run": progress.run,
        "rows": progress.rows,
        "done": progress.done,
        "captioned": progress.done - progress.failed,
        "failed": progress.failed,
        "left": progress.remaining,
        "videos": None if videos is None else videos.figures(progress),
        "ranks_elsewhere": progress.ranks_elsewhere,
        "finished_before": progress.finished_before,
        "clips_per_second": round(sum(rates.values()), 4),
        "seconds_left": None if left is None else round(left),
        "failures_by_stage": dict(progress.failures.most_common()),
        "failure_examples": {stage: _example(example) for stage, example in progress.examples.items()},
        "service": dict(progress.service) or None,
        "slowest_rank": min(working, key=lambda rank: rates[rank.rank]).rank if working else None,
        "silent_ranks": silent,
        "ranks": [
            {
                "rank": rank.rank,
                "leased": rank.leased,
                "done": rank.done,
                "failed": rank.failed,
                "clips_per_second": round(rates[rank.rank], 4),
                "seconds_since_written": round(now - rank.written_at, 1),
            }
            for rank in progress.ranks
        ],
    }


def _service(section: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The figures of a report's section on the service under the names that journals have; None without a service."""
    if section is None:
        return None
    names = ("prompt_tokens", "completion_tokens", "cost", COST_OF_ALL)
    return {**{name: section[name] for name in names if name in section}, "answers": section["answers_paid"]}


def _example(example: FailureExample) -> dict[str, Any]:
    column = {"column": example.column} if example.column else {}
    return {"row": example.row, **column, "message": example.message}


def _finished_figures(output: Path, written_at: float) -> dict[str, Any]:
    """The figures of a run that has ended. `finished_before` is None if the report counts captions instead of rows."""
    report = json.loads(report_path(output).read_text(encoding="utf-8"))
    # If a clip has several captions, `captioned` and `failed` of a report count captions, and these count rows.
    failed = report.get("failed_rows", report["failed"])
    done = report.get("finished_rows", report["captioned"] + report["failed"])
    has_several = "finished_rows" in report
    in_this_run = report["captioned_in_this_run"] + report["failed_in_this_run"]
    return {
        "state": "finished",
        "run": report.get("run", ""),
        "rows": done,
        "done": done,
        "captioned": done - failed,
        "failed": failed,
        "left": 0,
        "videos": finished_counts(outcomes_path(output), done) if report.get("ranges") else None,
        "ranks_elsewhere": 0,
        "finished_before": None if has_several else done - in_this_run,
        "clips_per_second": report["clips_per_second"],
        "seconds_left": 0,
        "seconds_since_finished": round(time.time() - written_at, 1),
        "failures_by_stage": report["failures_by_stage"],
        "failure_examples": {
            stage: _example(FailureExample(example["row"], example.get("column", ""), example["message"]))
            for stage, example in report.get("failure_examples", {}).items()
        },
        "service": _service(report.get("service")),
        "slowest_rank": None,
        "silent_ranks": [],
        "ranks": [],
    }
