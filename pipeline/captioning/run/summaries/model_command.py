"""Summaries with a model in this process: the flags, and the start of the run."""

from __future__ import annotations

import argparse
import functools

from ...workers.launch import Launch
from .. import family_source, job, model_flags, prompt_flags, run_flags
from ..command import Started
from ..model_work import work_of_source
from .flags import set_caption_defaults, summary_job, summary_settings
from .work import SummaryWork


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a model."""
    prompt_flags.add_conversation_flags(parser)
    model_flags.add_generation_flags(parser, has_length=False)
    run_flags.add_row_flags(parser, "summary")
    run_flags.add_batch_flags(parser)
    run_flags.add_device_flags(parser)
    family_source.add_family_flags(parser)
    # No clip is decoded and none is downloaded.
    parser.set_defaults(decode_timeout=60.0, decode_workers=None, max_download=0, download_timeout=60.0)


def start(flags: argparse.Namespace, launch: Launch) -> Started:
    """Check the flags; see `command.Start`."""
    settings = summary_settings(flags, flags.system or "")
    flags.system = None  # that of captions
    options = summary_job(flags, launch, settings)
    set_caption_defaults(flags)
    column, flags.column = flags.column, None
    source = family_source.make_source(flags)
    captions = work_of_source(source, flags.framework, flags.device, flags.dtype, launch)
    work = SummaryWork(captions.model, settings, column, captions.device)
    return Started(options.stall_timeout, work.warnings(launch), functools.partial(job.run, options, work))
