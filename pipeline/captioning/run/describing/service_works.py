"""Descriptions through a service: the flags, and the works of both runs, which share a file of answers.

Imports no framework.
"""

from __future__ import annotations

import argparse

from ...captioners.api.source import ServiceSource
from ...captioners.prompts import DEFAULT_QUESTION
from ...meta.names import TEXT_COLUMN
from ...process.errors import UsageError
from ...workers.launch import Launch
from .. import prompt_flags
from ..options import JobOptions
from ..service import flags as service_flags
from ..service.summaries import SummaryServiceWork
from ..service.work import ServiceWork
from ..summaries.flags import SERVICE_FLAG, refuse
from ..summaries.settings import SummarySettings
from .works import CheckedWorks, Works


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a service."""
    service_flags.add_service_flags(parser)
    for flag in ("--pretrained_model_name_or_path", "--bs"):
        refuse(parser, flag, f"is a flag of models in this process; leave it or {SERVICE_FLAG} out")
    # No model computes; the results of one process are not padded.
    parser.set_defaults(bs=1, pad_length=1 << 24, framework=None, device=None, dtype=None)


def check(flags: argparse.Namespace, launch: Launch, settings: SummarySettings) -> CheckedWorks:
    """Check the flags as far as that is possible without the folder of the tables.

    Raises:
        UsageError: flags that do not go together, or several workers.
    """
    service_flags.check_launch(launch)
    for name, why in (
        ("batch", "each summary is asked about answers"),
        ("dry_run", "the segments are not known before"),
        ("json_schema", "a summary is made of captions that are text"),
    ):
        if getattr(flags, name):
            raise UsageError(f"--{name} is not possible for descriptions: {why}; leave it out")
    asks = prompt_flags.asks_from_flags(flags, DEFAULT_QUESTION)
    sampling = service_flags.service_sampling(flags)

    def make(caption_options: JobOptions, summary_options: JobOptions) -> Works:
        options = service_flags.service_options(flags, caption_options)
        captions = ServiceWork(ServiceSource(options, asks, sampling, 0), options, caption_options)
        captions.check_ranges(caption_options)
        summaries = SummaryServiceWork(options, summary_options, settings, TEXT_COLUMN)
        return Works(options.generation.model, captions, summaries)

    return CheckedWorks([], make)
