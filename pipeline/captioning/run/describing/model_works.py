"""Descriptions with a model in this process: the flags, and the work of both runs, which share the model."""

from __future__ import annotations

import argparse

from ...meta.names import TEXT_COLUMN
from ...workers.launch import Launch
from .. import family_source, model_flags, prompt_flags, run_flags
from ..model_work import work_of_source
from ..options import JobOptions
from ..summaries.settings import SummarySettings
from ..summaries.work import SummaryWork
from .works import CheckedWorks, Works


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a model."""
    prompt_flags.add_conversation_flags(parser)
    model_flags.add_generation_flags(parser)
    run_flags.add_batch_flags(parser)
    run_flags.add_device_flags(parser)
    family_source.add_family_flags(parser)


def check(flags: argparse.Namespace, launch: Launch, settings: SummarySettings) -> CheckedWorks:
    """Check the flags and the checkpoint.

    Raises:
        UsageError: flags that do not go together, or a checkpoint that is not usable.
    """
    source = family_source.make_source(flags)
    captions = work_of_source(source, flags.framework, flags.device, flags.dtype, launch)
    summaries = SummaryWork(captions.model, settings, TEXT_COLUMN, captions.device)

    works = Works(flags.pretrained_model_name_or_path.resolve().name, captions, summaries)

    def make(caption_options: JobOptions, summary_options: JobOptions) -> Works:
        return works

    return CheckedWorks(captions.warnings(launch), make)
