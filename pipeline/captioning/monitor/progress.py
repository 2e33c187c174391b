"""Shows the progress of a run, over all its workers, from their journals.

    python -m pipeline.captioning.progress meta.csv

Works during a run, after a crash and after the end. Reads the journals of one folder. If other hosts keep journals in
their own folders, run this command there for their ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..journal.folder import journal_folder
from ..meta.names import default_output, report_path
from ..process.arguments import CommandParser, number
from ..process.errors import UsageError, exit_code_of
from .figures import last_report, poll
from .journal_monitor import JournalMonitor
from .progress_log import duration
from .service_usage import usage_text
from .video_counts import VideoCounts

MAX_SHOWN_RANKS = 16
"""If the run has more ranks, only this many of the slowest are shown."""
STATE_STYLES = {
    "waiting": "bold yellow",
    "running": "green",
    "finishing": "green",
    "finished": "bold green",
    "interrupted": "bold yellow",
    "silent": "bold red",
    "gone": "bold yellow",
}
HINTS = {
    "interrupted": "run the same command again to resume",
    "silent": "no rank has written to its journal recently; check the workers' logs, here or on their hosts",
    "gone": "the journals were removed; the output is on the host of rank 0",
}
END_STATES = ("finished", "gone")
"""Watching ends in these states. It continues after an interruption, because the run may be resumed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = CommandParser(prog="progress", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meta", type=Path, help="the meta table that is being captioned")
    parser.add_argument("--output", type=Path, help="the --output of the captioning command, if it was given one")
    parser.add_argument(
        "--watch",
        choices=("on", "off"),
        help="keep updating until the run ends; default: on in a terminal without --json",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, for other programs")
    parser.add_argument(
        "--interval", type=number(minimum=0, above=True), default=2.0, help="seconds between two polls (default: 2)"
    )
    parser.add_argument(
        "--silent",
        type=number(minimum=0),
        default=120.0,
        help="a rank that has not written to its journal for this many seconds is silent (default: 120)",
    )
    return exit_code_of(parser.prog, lambda: _run(parser.parse_args(arguments)))


def _run(flags: argparse.Namespace) -> None:
    output = flags.output or default_output(flags.meta)
    is_watching = flags.watch == "on" or (flags.watch is None and not flags.json and sys.stdout.isatty())
    monitor, videos = JournalMonitor(journal_folder(output)), VideoCounts(flags.meta)

    def poll_run() -> dict[str, Any]:
        return poll(monitor, output, flags.silent, videos)

    now = poll_run()
    may_start = is_watching and os.path.isfile(flags.meta)
    figures = last_report(output) if now["state"] == "waiting" and not may_start else now
    if figures is None:
        raise UsageError(
            f"no run found: {journal_folder(output)} has no journals, and there is no report {report_path(output)}. "
            f"{'Has the run started' if os.path.isfile(flags.meta) else 'Is this the meta table of the run'}? "
            "If the captioning command was given --output, give the same --output here"
        )
    try:
        if flags.json:
            _print_json(poll_run, flags.interval, figures, is_watching)
        else:
            _print_text(poll_run, flags.interval, figures, is_watching, output)
    except (KeyboardInterrupt, BrokenPipeError):
        pass


def _print_json(
    poll_run: Callable[[], dict[str, Any]], interval: float, figures: Mapping[str, Any], is_watching: bool
) -> None:
    print(json.dumps(figures, ensure_ascii=False), flush=True)
    while is_watching and figures["state"] not in END_STATES:
        time.sleep(interval)
        was_waiting = figures["state"] == "waiting"
        figures = poll_run()
        if not (was_waiting and figures["state"] == "waiting"):
            print(json.dumps(figures, ensure_ascii=False), flush=True)


def _print_text(
    poll_run: Callable[[], dict[str, Any]], interval: float, figures: Mapping[str, Any], is_watching: bool, output: Path
) -> None:
    console = Console()
    if not is_watching:
        console.print(render(figures, output))
        return
    with Live(render(figures, output), console=console, auto_refresh=False) as live:
        while figures["state"] not in END_STATES:
            time.sleep(interval)
            figures = poll_run()
            live.update(render(figures, output), refresh=True)


def render(figures: Mapping[str, Any], output: Path) -> Group:
    """The figures as text and tables for a terminal."""
    state, done, rows = figures["state"], figures["done"], figures["rows"]
    head = Text.assemble((state, STATE_STYLES[state]), f"  {output}")
    if state == "waiting":
        earlier = f"; {report_path(output)} is the report of an earlier run, which --watch off shows"
        return Group(head, Text(f"the run has not started{earlier if report_path(output).exists() else ''}"))
    left = figures["seconds_left"]
    videos = figures["videos"]
    parts = [
        f"{videos['complete']:,} of {videos['total']:,} videos complete ({done:,} of {rows:,} segments)"
        if videos
        else f"{done:,} of {rows:,} clips",
        f"{figures['failed']:,} failed",
        f"{figures['clips_per_second']:.2f} clips/s",
    ]
    if figures["service"]:
        parts.append(usage_text(figures["service"]))
    if figures["finished_before"]:
        parts.append(f"{figures['finished_before']:,} finished by earlier runs")
    if videos and videos["other_rows"] and not figures["ranks_elsewhere"]:
        parts.append(f"{videos['other_rows']:,} other rows of the table are not part of this run")
    if state == "running":
        parts.append(f"time left {'unknown' if left is None else duration(left)}")
    if figures["ranks_elsewhere"]:
        parts.append(
            f"{figures['ranks_elsewhere']} ranks keep their journals on other hosts, their rows count as not done"
        )
    if state in HINTS:
        parts.append(HINTS[state])
    if state == "finished":
        parts.append(f"output written {duration(figures['seconds_since_finished'])} ago")
    bar = ProgressBar(total=max(1, rows), completed=done, width=60)
    lines: list[Any] = [head, Padding(bar), Text(", ".join(parts))]  # a progress bar alone does not end its line
    if figures["silent_ranks"]:
        ranks = ", ".join(map(str, figures["silent_ranks"]))
        lines.append(Text(f"silent ranks: {ranks}; see msrun_log/worker_{figures['silent_ranks'][0]}.log", "bold red"))
    if figures["failures_by_stage"]:
        lines.append(_failure_table(figures))
    if figures["ranks"]:
        lines.append(_rank_table(figures))
    return Group(*lines)


def _failure_table(figures: Mapping[str, Any]) -> Table:
    table = Table("failed at", "failures", "example", title_justify="left")
    for stage, count in figures["failures_by_stage"].items():
        example = figures["failure_examples"].get(stage)
        text = ""
        if example:
            column = f" ({example['column']})" if "column" in example else ""
            text = f"row {example['row']}{column}: {example['message']}"
        table.add_row(stage, f"{count:,}", Text(text))
    return table


def _rank_table(figures: Mapping[str, Any]) -> Table:
    ranks = figures["ranks"]
    shown = ranks
    if len(ranks) > MAX_SHOWN_RANKS:
        slowest = sorted(ranks, key=lambda rank: rank["clips_per_second"])
        shown = sorted(slowest[:MAX_SHOWN_RANKS], key=lambda rank: rank["rank"])
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
