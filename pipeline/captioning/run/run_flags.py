"""The flags of a run: tables, rows, clips, batches and the device. Parses only; `options.job_options` checks them.

Imports no framework, so that a usage error is reported within a second or two. Knows nothing about the model, whose
flags are in `model_flags` and `prompt_flags`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..backends import DEVICES, DTYPES, FRAMEWORKS
from ..clips.downloads.limits import DOWNLOAD_TIMEOUT, MAX_DOWNLOAD
from ..meta.marks import CAPTION_MARKS, SHORT_WORDS
from ..process.arguments import CommandParser, HelpFormatter, byte_size, number, positive_int
from .model_flags import add_generation_flags
from .options import AUTO
from .prompt_flags import add_conversation_flags, add_prompt_flags

EPILOG = (
    "Exit code 0: done, also if single clips failed; 1: the run failed or no row could be captioned (the journals are "
    "kept; run the same command again to resume); 2: usage error."
)


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Make the parser of a command whose captions a model makes, without the flags of the checkpoint."""
    parser = make_table_parser(prog, description)
    add_prompt_flags(parser)
    add_conversation_flags(parser)
    add_generation_flags(parser)
    add_clip_flags(add_row_flags(parser))
    add_batch_flags(parser)
    add_device_flags(parser)
    return parser


def make_table_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Make a parser whose only argument is the meta table."""
    parser = CommandParser(
        prog=prog,
        description=description,
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("meta_path", type=Path, help="meta table (.csv, .csv.gz or .parquet) with a column 'path'")
    return parser


def add_row_flags(parser: argparse.ArgumentParser, output: str = "caption") -> argparse._ArgumentGroup:
    """Add the flags of tables and rows that all commands with a journal have; returns their group.

    output: what is appended to the name of the meta table for the name of the output.
    """
    run = parser.add_argument_group("run")
    run.add_argument(
        "--output",
        type=Path,
        help=f"table to write (.csv, .csv.gz or .parquet); if not given, <meta>_{output} next to the meta table, with "
        "the same suffix",
    )
    run.add_argument(
        "--skip_if_existing",
        action="store_true",
        help="keep existing captions, each column by itself: those in an earlier output, else those in the same column "
        "of the meta table",
    )
    run.add_argument(
        "--redo",
        type=caption_marks,
        metavar="MARK,...",
        help="with --skip_if_existing: do not keep captions that have one of these marks of the gallery, but caption "
        f"their rows again: {', '.join(CAPTION_MARKS)}",
    )
    run.add_argument(
        "--short_words",
        type=positive_int,
        help=f"with --redo short: a caption with fewer words is short; if not given, {SHORT_WORDS}",
    )
    run.add_argument(
        "--restart", action="store_true", help="discard the journals of an interrupted run and caption its rows again"
    )
    add_whole_files_flag(run)
    run.add_argument(
        "--limit",
        type=positive_int,
        help="caption only the first LIMIT rows, not counting rows that keep a caption; if not given, all rows",
    )
    add_end_flags(run)
    return run


def add_whole_files_flag(run: argparse._ArgumentGroup) -> None:
    """Add the flag for tables whose columns `start` and `end` are no ranges."""
    run.add_argument(
        "--whole_files",
        action="store_true",
        help="ignore the columns 'start' and 'end' of the meta table: they do not say which part of its file a row is",
    )


def add_end_flags(run: argparse._ArgumentGroup) -> None:
    """Add the flags that end a run early."""
    run.add_argument(
        "--max_failure_rate",
        type=number(minimum=0, maximum=1),
        default=0.5,
        help="stop the run if more than this share of a worker's last 1,000 rows failed",
    )
    run.add_argument(
        "--stall_timeout",
        type=number(minimum=2, maximum=1e6),
        default=1800.0,
        help="end a worker that has made no progress for this many seconds; loading the model and waiting for other "
        "ranks do not count, and a clip may take as long as --download_timeout and --decode_timeout allow",
    )


def add_clip_flags(run: argparse._ArgumentGroup) -> None:
    """Add the flags of decoding and downloading clips to the group of `add_row_flags`."""
    run.add_argument(
        "--decode_timeout",
        type=number(minimum=0, above=True),
        default=60.0,
        help="time limit of each decoder for one clip, in seconds",
    )
    run.add_argument(
        "--decode_workers",
        type=positive_int,
        help="decoding processes of each worker; if not given, 2 to 8, chosen from the number of CPU cores",
    )
    run.add_argument(
        "--max_download",
        type=byte_size,
        default=f"{MAX_DOWNLOAD // 2**30}G",
        help="largest file that is downloaded for a row whose path is a URL, in bytes or for example 500M",
    )
    run.add_argument(
        "--download_timeout",
        type=number(minimum=0, above=True),
        default=DOWNLOAD_TIMEOUT,
        help="time limit for downloading one clip, all attempts together, in seconds",
    )


def add_batch_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of batches and of the results that are gathered."""
    run = parser.add_argument_group("batches")
    run.add_argument(
        "--bs",
        type=batch_size,
        default=1,
        help="batch size: clips that each worker captions at the same time; 'auto' chooses a number that suits the "
        "device and its memory",
    )
    run.add_argument(
        "--pad_length",
        type=positive_int,
        default=4096,
        help="maximum size of a row's result when the results are gathered, in words of 4 bytes; a row with a longer "
        "caption becomes a failure",
    )


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of framework, device and computing type."""
    device = parser.add_argument_group("device")
    device.add_argument(
        "--framework",
        choices=FRAMEWORKS,
        help="framework that runs the model; if not given, chosen from launcher and device",
    )
    device.add_argument(
        "--device",
        choices=DEVICES,
        help="device that runs the model; if not given, an accelerator if there is one, else the CPU",
    )
    device.add_argument(
        "--dtype",
        choices=DTYPES,
        help="computing type; if not given, float32 on CPUs, bfloat16 on accelerators that have it, float16 on "
        "other accelerators",
    )


def batch_size(text: str) -> int | str:
    """An argparse type: a whole number of at least 1, or `auto`."""
    if text == AUTO:
        return AUTO
    try:
        return positive_int(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor is it {AUTO}") from None


def caption_marks(text: str) -> tuple[str, ...]:
    """An argparse type: marks of captions, separated by commas. Returns them in the order of CAPTION_MARKS."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in CAPTION_MARKS:
            raise argparse.ArgumentTypeError(f"{name!r} is not a mark; the marks are {', '.join(CAPTION_MARKS)}")
    return tuple(mark for mark in CAPTION_MARKS if mark in names)
