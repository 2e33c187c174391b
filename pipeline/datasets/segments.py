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
from fractions import Fraction
from pathlib import Path

import pandas as pd

from pipeline.captioning.clips.downloads.urls import is_url
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.csv_cells import PLAIN_CSV, csv_style
from pipeline.captioning.meta.names import (
    PATH_COLUMN,
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
from .file_processes import ask_processes
from .media import VIDEO_SUFFIXES
from .segmentation.division import Divided, Division, EqualParts, Scenes, count_frames, divide
from .segmentation.scenes import DETECTORS, check_installed
from .tables import STRING, as_text, read_table, with_column, write_table

START, END, SEGMENT = "start", "end", "segment"
_WHOLE = TimeRange(0)
_FRAMES_PER_TIMEOUT = 1500
"""Frames that are decoded within `--timeout` seconds, also on a slow machine: a minute of 25 frames per second."""
_EXIT_INTERRUPTED = 130
_SCENE_FLAGS = ("threshold", "min_length", "max_length")
_MIN_LENGTH = 0.6
"""Seconds; the default of PySceneDetect's commands."""


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
    rule = parser.add_mutually_exclusive_group(required=True)
    rule.add_argument(
        "--every",
        type=number(minimum=0.001),
        metavar="SECONDS",
        help="segments of this length; the last one is shorter",
    )
    rule.add_argument(
        "--frames", type=positive_int, metavar="N",
        help="segments of N frames at --fps frames per second, so N / fps seconds; the last one is shorter",
    )  # fmt: skip
    rule.add_argument(
        "--scenes", nargs="?", const=DETECTORS[0], choices=DETECTORS,
        help="from cut to cut, by a detector of PySceneDetect (default: adaptive); pip install -r "
        "requirements-scenes.txt",
    )  # fmt: skip
    parser.add_argument("--fps", type=number(minimum=0, above=True), help="--frames: frames per second")
    parser.add_argument(
        "--threshold", type=number(minimum=0, above=True),
        help="--scenes: how much frames must differ; less gives more cuts (default: adaptive 3, content 27)",
    )  # fmt: skip
    parser.add_argument(
        "--min_length", type=number(minimum=0), metavar="SECONDS",
        help=f"--scenes: shortest scene (default: {_MIN_LENGTH})",
    )  # fmt: skip
    parser.add_argument(
        "--max_length", type=number(minimum=0.001), metavar="SECONDS",
        help="--scenes: longer scenes are divided into equal parts (default: no limit)",
    )  # fmt: skip
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
        f"{_FRAMES_PER_TIMEOUT:,} frames of it (default: 60)",
    )  # fmt: skip
    return parser


def _run(flags: argparse.Namespace) -> None:
    rule = _rule_of(flags)
    failures = _check_files(flags)
    is_table = suffix_of(flags.input) != "" or not flags.input.name.lower().endswith(VIDEO_SUFFIXES)
    frame = read_table(flags.input) if is_table else pd.DataFrame({PATH_COLUMN: [str(flags.input)]}, dtype=STRING)
    style = csv_style(flags.input) if is_table and not is_parquet(flags.input) else PLAIN_CSV
    text_columns = set(frame.columns[frame.dtypes == STRING]) - {START, END} if is_parquet(flags.input) else set()
    if PATH_COLUMN not in frame:
        raise UsageError(
            f"table {flags.input} has no column '{PATH_COLUMN}'; its columns: {column_list(frame.columns)}"
        )
    paths = as_text(frame[PATH_COLUMN]).tolist()
    parts = [_WHOLE] * len(paths) if flags.whole_files else _parts(frame, flags.input)
    rows = _divide(paths, parts, rule, flags)
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


def _rule_of(flags: argparse.Namespace) -> EqualParts | Scenes:
    """The rule that the flags describe.

    Raises:
        UsageError: flags do not go together, or the packages that --scenes needs are missing.
    """
    if flags.scenes is None:
        for name in _SCENE_FLAGS:
            if getattr(flags, name) is not None:
                raise UsageError(f"--{name} is a flag of --scenes")
    if flags.frames is None and flags.fps is not None:
        raise UsageError("--fps is a flag of --frames")
    if flags.every is not None:
        return EqualParts(1000 * _fraction(flags.every))
    if flags.frames is not None:
        if flags.fps is None:
            raise UsageError(f"--frames {flags.frames} needs --fps, for example --fps 1")
        length = 1000 * flags.frames / _fraction(flags.fps)
        if length < 1:
            raise UsageError(
                f"--frames {flags.frames} --fps {flags.fps:g}: segments would be shorter than 1 ms; use a lower --fps"
            )
        return EqualParts(length)
    min_length = _MIN_LENGTH if flags.min_length is None else flags.min_length
    max_length = flags.max_length or 0.0
    if 0 < max_length < min_length:
        raise UsageError(f"--max_length {max_length:g} is less than --min_length {min_length:g}; lower --min_length")
    check_installed()
    return Scenes(flags.scenes, flags.threshold, round(1000 * min_length), round(1000 * max_length))


def _fraction(value: float) -> Fraction:
    """The number that was written: 29.97 and not the float next to it."""
    return Fraction(repr(value))


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
    starts, ends = (as_text(frame[name]).tolist() if name in frame else blank for name in (START, END))
    parts = []
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        try:
            parts.append(TimeRange.from_cells(start, end) or _WHOLE)
        except ValueError as error:
            raise UsageError(
                f"table {table}: row {row}: '{error}' in the columns {START} and {END} is not a number of seconds; "
                "correct it, or ignore these columns with --whole_files"
            ) from None
    return parts


def _divide(
    paths: Sequence[str], parts: Sequence[TimeRange], rule: EqualParts | Scenes, flags: argparse.Namespace
) -> list[tuple[TimeRange, ...] | str]:
    """The segments of each row, or its problem."""
    parts_of: dict[str, dict[TimeRange, None]] = defaultdict(dict)
    for path, part in zip(paths, parts, strict=True):
        if not is_url(path):
            parts_of[path][part] = None
    divisions = [Division(path, tuple(wanted), rule) for path, wanted in parts_of.items()]
    divided, problems = _ask(divisions, rule, flags)
    found: dict[tuple[str, TimeRange], tuple[TimeRange, ...] | str] = {}
    for division in divisions:
        reply = divided.get(division)
        segments = [problems[division]] * len(division.parts) if reply is None else reply.segments
        found |= {(division.path, part): result for part, result in zip(division.parts, segments, strict=True)}
    damaged = [division.path for division, reply in divided.items() if reply.is_partial]
    if damaged:
        print(f"{len(damaged):,} files are cut off or damaged, and divided up to there, for example {damaged[0]}")
    is_missing = "the path is a URL; download the file, and put its path into the table"
    return [is_missing if is_url(path) else found[path, part] for path, part in zip(paths, parts, strict=True)]


def _ask(
    divisions: Sequence[Division], rule: EqualParts | Scenes, flags: argparse.Namespace
) -> tuple[dict[Division, Divided], dict[Division, str]]:
    """Divide files in processes: the answers, and the problems of the other files."""
    if isinstance(rule, EqualParts):
        return ask_processes(divisions, divide, flags.num_workers, flags.timeout, "files")
    frames, problems = ask_processes(divisions, count_frames, flags.num_workers, flags.timeout, "lengths")

    def seconds(division: Division) -> float:
        return float(flags.timeout * (1 + frames[division] / _FRAMES_PER_TIMEOUT))

    divided, failed = ask_processes(list(frames), divide, flags.num_workers, flags.timeout, "scenes", seconds)
    return divided, problems | failed


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
    made = with_column(with_column(made, START, starts), END, ends)
    return with_column(made, SEGMENT, numbers, "Int64")


if __name__ == "__main__":
    sys.exit(main())
