"""Makes one HTML page of a captioned table: the frames of each clip beside its caption.

    python -m pipeline.captioning.gallery meta_caption.csv --output gallery.html

The page needs nothing else: it can be mailed, or opened on a phone. It holds the frames that the model saw, and
search, filters and sorting. Of a large table it shows a sample.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...clips.killable import DecoderLimits
from ...clips.loader import default_decode_workers
from ...meta.names import gallery_path
from ...process.arguments import CommandParser, number, positive_int, whole_number
from ...process.errors import EXIT_FAILED, UsageError, exit_code_of
from .entries import MARKS, Entries, Entry, read_entries, read_report
from .filmstrips import MOST_FRAMES, make_filmstrips
from .page import write_page

logger = logging.getLogger(__name__)

PICTURES_BYTES = 60 * 10**6
"""Of all filmstrips together; in the page, as base64, they take a third more."""
_FILMSTRIP_BYTES = 200_000
_DEFAULT_FRAMES = 4
_LARGE_PAGE = 100 * 10**6
_NO_PICTURE_STAGES = {"path", "decode", "prepare"}
"""Rows that failed there have no frames to show."""


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
    parser.add_argument("table", type=Path, help="the captioned table; its failures and report are found beside it")
    parser.add_argument("--output", type=Path, help="the page; default: <table>_gallery.html beside the table")
    parser.add_argument(
        "--only",
        choices=list(MARKS),
        nargs="+",
        default=[],
        metavar="MARK",
        help=f"show only rows with one of these marks: {', '.join(f'{mark} ({why})' for mark, why in MARKS.items())}",
    )
    parser.add_argument(
        "--sample", type=positive_int, default=2000, help="at most so many rows, drawn at random (default: 2000)"
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of the sample (default: 0)")
    parser.add_argument("--short_words", type=positive_int, default=5, help="fewer words are short (default: 5)")
    parser.add_argument(
        "--num_frames",
        type=positive_int,
        help="frames to sample of each clip; default: as many as the model saw, as the report has it, else "
        f"{_DEFAULT_FRAMES}. The page shows {MOST_FRAMES} of them at most",
    )
    parser.add_argument(
        "--decode_timeout", type=number(minimum=0, above=True), default=60.0, help="seconds for one clip (default: 60)"
    )
    parser.add_argument("--decode_workers", type=positive_int, help="decoding processes; default: by the cores")
    return parser


def _run(flags: argparse.Namespace) -> None:
    table: Path = flags.table
    output: Path = flags.output or gallery_path(table)
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {output} must end in .html")
    if not output.parent.is_dir():
        raise UsageError(f"the folder of --output, {output.parent}, does not exist")
    entries = read_entries(table, flags.only, flags.sample, flags.seed, flags.short_words)
    report = read_report(table)
    paths = list(dict.fromkeys(entry.path for entry in entries.entries if _may_have_frames(entry)))
    strips, problems = make_filmstrips(
        paths,
        flags.num_frames or _frames_seen(report),
        min(_FILMSTRIP_BYTES, PICTURES_BYTES // max(1, len(paths))),
        DecoderLimits(flags.decode_timeout),
        flags.decode_workers or default_decode_workers(host_workers=1),
    )
    write_page(output, table, entries, strips, problems, report)
    size = output.stat().st_size
    print(f"{output}: {_what(entries)}, {len(strips):,} clips with frames, {size / 10**6:.1f} MB")
    if size > _LARGE_PAGE:
        print(f"The page is large for a browser; --sample {len(entries.entries) // 4} makes a lighter one.")


def _may_have_frames(entry: Entry) -> bool:
    return entry.stage not in _NO_PICTURE_STAGES


def _frames_seen(report: Mapping[str, Any]) -> int:
    frames = str(report.get("fingerprint", {}).get("frames", ""))
    return int(frames) if frames.isdigit() and int(frames) > 0 else _DEFAULT_FRAMES


def _what(entries: Entries) -> str:
    shown = len(entries.entries)
    if shown < entries.chosen:
        return f"{shown:,} of {entries.chosen:,} rows, drawn at random"
    return f"{shown:,} rows"
