"""Summaries through a service: the flags, and the start of the run. Imports no framework."""

from __future__ import annotations

import argparse
import functools

from ...workers.launch import Launch
from .. import job, run_flags
from ..command import Started
from ..summaries.flags import SERVICE_FLAG, refuse, summary_job, summary_settings
from .flags import add_text_service_flags, check_launch, service_options
from .summaries import SummaryServiceWork


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a service."""
    add_text_service_flags(parser)
    run_flags.add_row_flags(parser, "summary")
    refuse(parser, "--batch", "is not possible: each title is asked about a summary; leave it out")
    refuse(parser, "--max_new_tokens", "is the length of captions; give --summary_tokens and --title_tokens")
    refuse(parser, "--json_schema", "is not possible: a summary and a title are text; leave it out")
    for flag in ("--pretrained_model_name_or_path", "--bs"):
        refuse(parser, flag, f"is a flag of models in this process; leave it or {SERVICE_FLAG} out")
    # Nothing is decoded and gathered, and no model computes; the results of one process are not padded.
    parser.set_defaults(bs=1, pad_length=1 << 24, framework=None, device=None, dtype=None)
    parser.set_defaults(decode_timeout=60.0, decode_workers=None, max_download=0, download_timeout=60.0)


def start(flags: argparse.Namespace, launch: Launch) -> Started:
    """Check the flags; see `command.Start`."""
    check_launch(launch)
    settings = summary_settings(flags, flags.system or "")
    options = summary_job(flags, launch, settings)
    work = SummaryServiceWork(service_options(flags, options), options, settings, flags.column)
    return Started(options.stall_timeout, work.warnings(launch), functools.partial(job.run, options, work))
