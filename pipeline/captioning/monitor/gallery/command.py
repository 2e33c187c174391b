"""Makes one HTML page of a captioned table, with the caption and the frames of each clip.

    python -m pipeline.captioning.gallery meta_caption.csv --output gallery.html

The page needs no other file: it can be sent by e-mail, or opened on a phone. It shows the frames that the model saw,
and has search, filters and sorting. If the table is large, the page shows a random sample of its rows. Rows that are
parts of one file (columns start and end) are grouped by video, with a time bar.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...clips.downloads.limits import DOWNLOAD_TIMEOUT, MAX_DOWNLOAD, DownloadLimits
from ...clips.killable import DecoderLimits
from ...clips.loader import default_decode_workers
from ...clips.sampling import FrameSampling
from ...meta.marks import SHORT_WORDS
from ...meta.names import gallery_path
from ...process.arguments import CommandParser, byte_size, number, positive_int, whole_number
from ...process.errors import EXIT_FAILED, exit_code_of
from .entries import MARKS, Entries, read_entries
from .filmstrips import MAX_FRAMES
from .outputs import read_report
from .pictured import DEFAULT_SAMPLING, check_page_path, write_pictured_page

_LARGE_PAGE_BYTES = 100 * 10**6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    parser = _make_parser()
    try:
        return exit_code_of(parser.prog, lambda: _run(parser.parse_args(arguments)))
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; no page was written", file=sys.stderr)
        return EXIT_FAILED


def _make_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "table", type=Path, help="the captioned table; its failures, outcomes and report are read from the same folder"
    )
    parser.add_argument(
        "--output", type=Path, help="the page to write; default: <table>_gallery.html next to the table"
    )
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        help="a column of captions; give it once for each; default: the columns that the run wrote, else text",
    )
    parser.add_argument(
        "--only",
        choices=list(MARKS),
        nargs="+",
        default=[],
        metavar="MARK",
        help="show only rows of which a caption has one of these marks: "
        f"{', '.join(f'{mark} ({why})' for mark, why in MARKS.items())}",
    )
    parser.add_argument(
        "--sample", type=positive_int, default=2000, help="show at most this many rows, drawn at random (default: 2000)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="random seed of --sample (default: 0)")
    parser.add_argument(
        "--short_words",
        type=positive_int,
        default=SHORT_WORDS,
        help=f"a caption with fewer words than this is short (default: {SHORT_WORDS})",
    )
    parser.add_argument(
        "--summaries",
        type=Path,
        help="for a table of segments: a table with the columns path, summary and title, which the page shows above "
        "the segments of each video; default: <table>_summary next to the table, if there is one",
    )
    parser.add_argument(
        "--whole_files",
        action="store_true",
        help="ignore the columns start and end of the table: they do not say which part of its file a row is; default: "
        "as in the report of the run, or off if there is no report",
    )
    parser.add_argument(
        "--num_frames",
        type=positive_int,
        help="number of frames to sample from each clip; default: as in the report (what the model saw), or "
        f"{DEFAULT_SAMPLING.num_frames} if there is no report. The page shows at most {MAX_FRAMES} of them",
    )
    parser.add_argument(
        "--decode_timeout",
        type=number(minimum=0, above=True),
        default=60.0,
        help="maximum seconds for one clip and decoder (default: 60)",
    )
    parser.add_argument(
        "--decode_workers",
        type=positive_int,
        help="number of decoding processes; default: from the number of CPU cores",
    )
    size = f"{MAX_DOWNLOAD // 2**30}G"
    parser.add_argument(
        "--max_download",
        type=byte_size,
        default=size,
        help=f"largest file that is downloaded for a row whose path is a URL, for example 500M (default: {size})",
    )
    parser.add_argument(
        "--download_timeout",
        type=number(minimum=0, above=True),
        default=DOWNLOAD_TIMEOUT,
        help=f"maximum seconds for downloading one clip (default: {DOWNLOAD_TIMEOUT:g})",
    )
    return parser


def _run(flags: argparse.Namespace) -> None:
    table: Path = flags.table
    output: Path = flags.output or gallery_path(table)
    check_page_path(output, "--output")
    report = read_report(table)
    whole_files = flags.whole_files or bool(report and not report.get("ranges"))
    entries = read_entries(
        table, flags.only, flags.sample, flags.seed, flags.short_words, flags.column, whole_files, flags.summaries
    )
    with_frames = write_pictured_page(
        output,
        table,
        entries,
        report,
        FrameSampling("segments", flags.num_frames) if flags.num_frames else _sampling_of(report),
        DecoderLimits(flags.decode_timeout, download=DownloadLimits(flags.max_download, flags.download_timeout)),
        flags.decode_workers or default_decode_workers(host_workers=1),
    )
    size = output.stat().st_size
    print(f"{output}: {_rows_text(entries)}, {with_frames:,} clips with frames, {size / 10**6:.1f} MB")
    if size > _LARGE_PAGE_BYTES:
        print(f"The page is large for a browser. For a smaller page, use --sample {len(entries.entries) // 4}.")


def _sampling_of(report: Mapping[str, Any]) -> FrameSampling:
    try:
        return FrameSampling.parse(str(report.get("fingerprint", {}).get("frames", "")))
    except ValueError:
        return DEFAULT_SAMPLING


def _rows_text(entries: Entries) -> str:
    shown = len(entries.entries)
    if shown < entries.chosen:
        return f"{shown:,} of {entries.chosen:,} rows, drawn at random"
    return f"{shown:,} rows"
