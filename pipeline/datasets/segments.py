"""Divides videos into segments: writes a table with one row for each segment, in its columns `start` and `end`.

    python -m pipeline.datasets.segments videos.csv --output segments.csv --every 10
    python -m pipeline.datasets.segments videos.csv --output segments.csv --frames 4 --fps 1
    python -m pipeline.datasets.segments videos.csv --output segments.csv --scenes

Each segment has all columns of its video, its `start` and `end` in seconds, and `segment`, its number within the video.
A row that already has `start` or `end` is a part of its file, and this part is divided.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.long_videos.segmentation import rule_flags
from pipeline.captioning.long_videos.segmentation.many import FRAMES_PER_TIMEOUT, divide_many
from pipeline.captioning.meta.csv_cells import PLAIN_CSV, csv_style
from pipeline.captioning.meta.names import (
    END_COLUMN,
    PATH_COLUMN,
    SEGMENT_COLUMN,
    START_COLUMN,
    check_output,
    column_list,
    failures_path,
    is_parquet,
    suffix_of,
)
from pipeline.captioning.process.arguments import CommandParser, number, positive_int
from pipeline.captioning.process.errors import RunError, UsageError, exit_code_of

from .exports.failures import FailedRows
from .exports.rows import Row
from .media import VIDEO_SUFFIXES
from .tables import STRING, as_text, read_table, with_column, write_table

_WHOLE = TimeRange(0)
_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _make_parser()
    try:
        return exit_code_of(parser.prog, lambda: _run(parser.parse_args(arguments)))
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; the table was not written", file=sys.stderr)
        return _EXIT_INTERRUPTED


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="segments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("input", type=Path, help="table (.csv, .csv.gz, .parquet) with a column `path`, or one video")
    parser.add_argument("--output", type=Path, required=True, help="table to write: .csv, .csv.gz or .parquet")
    rule_flags.add_rule_flags(parser)
    parser.add_argument(
        "--whole_files", action="store_true", help="ignore the columns start and end of the table, and replace them"
    )
    parser.add_argument(
        "--num_workers", type=positive_int, default=len(os.sched_getaffinity(0)),
        help="files that are read at once (default: number of CPU cores)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=number(minimum=0, above=True), default=60.0, metavar="SECONDS",
        help="most seconds to read a file; with --scenes, as many more for every "
        f"{FRAMES_PER_TIMEOUT:,} frames of it (default: 60)",
    )  # fmt: skip
    return parser


def _run(flags: argparse.Namespace) -> None:
    rule = rule_flags.rule_of(flags)
    failures = _check_files(flags)
    is_table = suffix_of(flags.input) != "" or not flags.input.name.lower().endswith(VIDEO_SUFFIXES)
    frame = read_table(flags.input) if is_table else pd.DataFrame({PATH_COLUMN: [str(flags.input)]}, dtype=STRING)
    style = csv_style(flags.input) if is_table and not is_parquet(flags.input) else PLAIN_CSV
    text_columns = (
        set(frame.columns[frame.dtypes == STRING]) - {START_COLUMN, END_COLUMN} if is_parquet(flags.input) else set()
    )
    if PATH_COLUMN not in frame:
        raise UsageError(
            f"table {flags.input} has no column '{PATH_COLUMN}'; its columns: {column_list(frame.columns)}"
        )
    paths = as_text(frame[PATH_COLUMN]).tolist()
    parts = [_WHOLE] * len(paths) if flags.whole_files else _parts(frame, flags.input)
    rows, damaged = divide_many(paths, parts, rule, flags.num_workers, flags.timeout)
    if damaged:
        print(f"{len(damaged):,} files are cut off or damaged, and divided up to there, for example {damaged[0]}")
    with FailedRows(failures) as failed:
        for row, (path, segments) in enumerate(zip(paths, rows, strict=True)):
            if isinstance(segments, str):
                failed.add(Row(row, path, (), ()), segments)
        divided = [() if isinstance(segments, str) else segments for segments in rows]
        if not any(divided):
            raise RunError(
                f"no row could be divided; {failed.summary}" if failed.count else f"table {flags.input} has no rows"
            )
        made = _segment_rows(frame, paths, divided)
        write_table(made, flags.output, style, text_columns)
    videos = len({path for path, segments in zip(paths, divided, strict=True) if segments})
    failed_rows = f"; {failed.summary}" if failed.count else ""
    print(f"wrote {flags.output}: {len(made):,} segments of {videos:,} videos{failed_rows}")


def _check_files(flags: argparse.Namespace) -> Path:
    """Check the names of files; returns that of the file of failed rows."""
    check_output(flags.output)
    if flags.output.exists():
        raise UsageError(f"--output {flags.output} exists already; remove it, or give another name")
    failures = failures_path(flags.output)
    if failures.exists() and flags.input.exists() and failures.samefile(flags.input):
        raise UsageError(f"--output {flags.output}: its failures would replace the input {failures}; give another name")
    return failures


def _parts(frame: pd.DataFrame, table: Path) -> list[TimeRange]:
    """The part of its file that each row is.

    Raises:
        UsageError: a cell of the columns `start` and `end` is not a number.
    """
    blank = [""] * len(frame)
    starts, ends = (as_text(frame[name]).tolist() if name in frame else blank for name in (START_COLUMN, END_COLUMN))
    parts = []
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        try:
            parts.append(TimeRange.from_cells(start, end) or _WHOLE)
        except ValueError as error:
            raise UsageError(
                f"table {table}: row {row}: '{error}' in the columns {START_COLUMN} and {END_COLUMN} is not "
                "a number of seconds; correct it, or ignore these columns with --whole_files"
            ) from None
    return parts


def _segment_rows(frame: pd.DataFrame, paths: Sequence[str], divided: Sequence[tuple[TimeRange, ...]]) -> pd.DataFrame:
    """One row for each segment, with all columns of its row in `frame`."""
    counts: dict[str, int] = defaultdict(int)
    sources, starts, ends, numbers = [], [], [], []
    for row, (path, segments) in enumerate(zip(paths, divided, strict=True)):
        for segment in segments:
            start, end = segment.cells
            sources.append(row)
            starts.append(start)
            ends.append(end)
            numbers.append(counts[path])
            counts[path] += 1
    made = frame.iloc[sources].reset_index(drop=True)
    made = with_column(with_column(made, START_COLUMN, starts), END_COLUMN, ends)
    return with_column(made, SEGMENT_COLUMN, numbers, "Int64")


if __name__ == "__main__":
    sys.exit(main())
