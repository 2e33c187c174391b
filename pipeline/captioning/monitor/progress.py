"""Shows how a run is getting on, over all its workers, from their journals.

    python -m pipeline.captioning.progress meta.csv

Works during a run, after a crash and after the end. Journals that other hosts keep in folders of their own are
seen only there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..journal.folder import journal_folder, planned_at
from ..meta.names import default_output, report_path
from ..process.arguments import CommandParser, number
from ..process.errors import UsageError, exit_code_of
from .journal_monitor import JournalMonitor, RunProgress, as_json
from .progress_log import duration

MOST_RANKS = 16
"""More are not shown one by one, but the slowest of them."""
STATES = {
    "waiting": "bold yellow",
    "running": "green",
    "finishing": "green",
    "finished": "bold green",
    "interrupted": "bold yellow",
    "silent": "bold red",
    "gone": "bold yellow",
}
ADVICE = {
    "interrupted": "run the same command again to go on",
    "silent": "nothing has been written for long; look at the workers' logs, here or on their hosts",
    "gone": "the journals are gone; the output is on the host of rank 0",
}
ENDED = ("finished", "gone")
"""After an interruption somebody may start the run again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = CommandParser(prog="progress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meta", type=Path, help="the meta table that is being captioned")
    parser.add_argument("--output", type=Path, help="as given to the captioning command")
    parser.add_argument("--watch", choices=("on", "off"), help="go on showing; default: on in a terminal")
    parser.add_argument("--json", action="store_true", help="for other programs: an object a line")
    parser.add_argument(
        "--interval", type=number(minimum=0, above=True), default=2.0, help="seconds between two looks (default: 2)"
    )
    parser.add_argument(
        "--silent",
        type=number(minimum=0),
        default=120.0,
        help="seconds after which a rank counts as silent (default: 120)",
    )
    return exit_code_of(parser.prog, lambda: _run(parser.parse_args(arguments)))


def _run(flags: argparse.Namespace) -> None:
    output = flags.output or default_output(flags.meta)
    watches = flags.watch == "on" or (flags.watch is None and not flags.json and sys.stdout.isatty())
    looker = JournalMonitor(journal_folder(output))
    figures = look(looker, output, flags.silent)
    if figures["state"] == "waiting" and not (watches and os.path.isfile(flags.meta)):
        raise UsageError(
            f"no run to be seen: neither {journal_folder(output)} with journals nor {report_path(output)}. "
            f"{'Has it begun' if os.path.isfile(flags.meta) else 'Is it the meta table that is being captioned'}, "
            "and was it given an --output?"
        )
    try:
        if flags.json:
            _print_json(looker, output, flags, figures, watches)
        else:
            _show(looker, output, flags, figures, watches)
    except (KeyboardInterrupt, BrokenPipeError):
        pass


def look(looker: JournalMonitor, output: Path, silent_seconds: float) -> dict[str, Any]:
    """The figures of the run that writes `output`: from its journals, or after its end from its report.

    Besides the states of `journal_monitor.state_of`: `finished`; `waiting`: it has not begun; `gone`: it was seen, but
    its journals are there no more, and the output is on another host.
    """
    view = looker.look()
    if view is not None:
        return as_json(view, looker, time.time(), silent_seconds)
    planned, reported = planned_at(looker.folder), _written_at(report_path(output))
    if reported is not None and (planned is None or reported > planned):
        return _finished(json.loads(report_path(output).read_text(encoding="utf-8")), reported)
    state = "gone" if looker.last is not None and planned is None else "waiting"
    return as_json(looker.last or RunProgress(), looker, time.time(), silent_seconds) | {"state": state}


def _written_at(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _finished(report: Mapping[str, Any], written: float) -> dict[str, Any]:
    captioned, failed = report["captioned"], report["failed"]
    return {
        "state": "finished",
        "run": report.get("run", ""),
        "rows": captioned + failed,
        "done": captioned + failed,
        "captioned": captioned,
        "failed": failed,
        "left": 0,
        "ranks_elsewhere": 0,
        "finished_before": captioned + failed - report["captioned_in_this_run"] - report["failed_in_this_run"],
        "clips_per_second": report["clips_per_second"],
        "seconds_left": 0,
        "seconds_since_finished": round(time.time() - written, 1),
        "failures_by_stage": report["failures_by_stage"],
        "failure_examples": {
            stage: {"row": example["row"], "message": example["message"]}
            for stage, example in report.get("failure_examples", {}).items()
        },
        "slowest_rank": None,
        "silent_ranks": [],
        "ranks": [],
    }


def _print_json(
    looker: JournalMonitor, output: Path, flags: argparse.Namespace, figures: Mapping[str, Any], watches: bool
) -> None:
    print(json.dumps(figures, ensure_ascii=False), flush=True)
    while watches and figures["state"] not in ENDED:
        time.sleep(flags.interval)
        was_waiting = figures["state"] == "waiting"
        figures = look(looker, output, flags.silent)
        if not (was_waiting and figures["state"] == "waiting"):
            print(json.dumps(figures, ensure_ascii=False), flush=True)


def _show(
    looker: JournalMonitor, output: Path, flags: argparse.Namespace, figures: Mapping[str, Any], watches: bool
) -> None:
    console = Console()
    if not watches:
        console.print(render(figures, output))
        return
    with Live(render(figures, output), console=console, auto_refresh=False) as live:
        while figures["state"] not in ENDED:
            time.sleep(flags.interval)
            figures = look(looker, output, flags.silent)
            live.update(render(figures, output), refresh=True)


def render(figures: Mapping[str, Any], output: Path) -> Group:
    """The figures for people."""
    state, done, rows = figures["state"], figures["done"], figures["rows"]
    head = Text.assemble((state, STATES[state]), f"  {output}")
    if state == "waiting":
        return Group(head, Text("the run has not begun"))
    left = figures["seconds_left"]
    parts = [
        f"{done:,} of {rows:,} clips",
        f"{figures['failed']:,} failed",
        f"{figures['clips_per_second']:.2f} clips/s",
    ]
    if figures["finished_before"]:
        parts.append(f"{figures['finished_before']:,} finished by earlier runs")
    if state == "running":
        parts.append(f"time left {'unknown' if left is None else duration(left)}")
    if figures["ranks_elsewhere"]:
        parts.append(f"{figures['ranks_elsewhere']} ranks keep their journals on other hosts, their rows count as left")
    if state in ADVICE:
        parts.append(ADVICE[state])
    if state == "finished":
        parts.append(f"written {duration(figures['seconds_since_finished'])} ago")
    bar = ProgressBar(total=max(1, rows), completed=done, width=60)
    lines: list[Any] = [head, Padding(bar), Text(", ".join(parts))]  # a bar alone ends no line
    if figures["silent_ranks"]:
        ranks = ", ".join(map(str, figures["silent_ranks"]))
        lines.append(
            Text(f"silent: rank {ranks}; look at msrun_log/worker_{figures['silent_ranks'][0]}.log", "bold red")
        )
    if figures["failures_by_stage"]:
        lines.append(_failures(figures))
    if figures["ranks"]:
        lines.append(_ranks(figures))
    return Group(*lines)


def _failures(figures: Mapping[str, Any]) -> Table:
    table = Table("failed at", "rows", "for example", title_justify="left")
    for stage, count in figures["failures_by_stage"].items():
        example = figures["failure_examples"].get(stage)
        text = f"row {example['row']}: {example['message']}" if example else ""
        table.add_row(stage, f"{count:,}", Text(text))
    return table


def _ranks(figures: Mapping[str, Any]) -> Table:
    ranks = figures["ranks"]
    shown = ranks
    if len(ranks) > MOST_RANKS:
        slowest = sorted(ranks, key=lambda rank: rank["clips_per_second"])
        shown = sorted(slowest[:MOST_RANKS], key=lambda rank: rank["rank"])
    table = Table("rank", "done", "leased", "failed", "clips/s", "last written")
    for rank in shown:
        name = f"{rank['rank']}{' (slowest)' if rank['rank'] == figures['slowest_rank'] and len(ranks) > 1 else ''}"
        table.add_row(
            name,
            f"{rank['done']:,}",
            f"{rank['leased']:,}",
            f"{rank['failed']:,}",
            f"{rank['clips_per_second']:.2f}",
            f"{duration(rank['seconds_since_written'])} ago",
        )
    if len(shown) < len(ranks):
        table.caption = f"the {len(shown)} slowest of {len(ranks)} ranks"
    return table
