"""The command that summarises videos: its parser, and its work with a model."""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace

from ...meta.names import TEXT_COLUMN, summary_output
from ...meta.table import MetaTable
from ...workers.launch import Launch
from .. import family_source, job, model_flags, prompt_flags, run_flags
from ..command import Started
from ..model_work import work_of_source
from ..options import job_options
from .flags import add_summary_flags, set_caption_defaults, summary_settings
from .settings import SummaryAsks
from .work import SummaryWork


def add_caption_column(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the column with the captions of the segments."""
    parser.add_argument(
        "--column",
        type=prompt_flags.utf8,
        default=TEXT_COLUMN,
        metavar="NAME",
        help=f"column of the table with the captions of the segments; if not given, {TEXT_COLUMN}",
    )


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The parser of the command with a model."""
    parser = run_flags.make_table_parser(prog, description)
    add_caption_column(parser)
    add_summary_flags(parser)
    prompt_flags.add_conversation_flags(parser)
    model_flags.add_generation_flags(parser, has_length=False)
    run_flags.add_row_flags(parser)
    run_flags.add_batch_flags(parser)
    run_flags.add_device_flags(parser)
    family_source.add_family_flags(parser)
    # No clip is decoded and none is downloaded.
    parser.set_defaults(decode_timeout=60.0, decode_workers=None, max_download=0, download_timeout=60.0)
    return parser


def start(flags: argparse.Namespace, launch: Launch) -> Started:
    """Check the flags; see `command.Start`."""
    settings = summary_settings(flags, flags.system or "")
    flags.system = None  # that of captions
    set_caption_defaults(flags)
    if flags.output is None:
        flags.output = summary_output(flags.meta_path)
    asks = SummaryAsks.of(settings)
    options = replace(job_options(flags, asks.columns), lease_rows=1)
    if launch.rank == 0:
        use = {flags.column: "summaries are made of its captions (--column)"}
        MetaTable.check(options.meta_path, options.output, (), use, options.whole_files)
    column, flags.column = flags.column, None
    source = family_source.make_source(flags)
    captions = work_of_source(source, flags.framework, flags.device, flags.dtype, launch)
    work = SummaryWork(captions.model, settings, column, captions.device)
    return Started(options.stall_timeout, work.warnings(launch), functools.partial(job.run, options, work))
