"""The command that summarises videos: by a model in this process, or through a service if there is a --base_url.

The choice is made before the flags are parsed. Imports no tokenizer and no library of a service before that.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from .. import run_flags
from ..command import Start
from .flags import SERVICE_FLAG, add_caption_column, add_summary_flags, has_service_flag, refuse

_PROG = "summarize.py"
_DESCRIPTION = "Write a summary and a title for each video, from the captions of its segments"
_OF_SERVICE = f"{SERVICE_FLAG} URL --help"


@dataclass(frozen=True)
class Command:
    """A parser, and what checks its flags and starts the run."""

    parser: argparse.ArgumentParser
    start: Start


def command_for(arguments: Sequence[str]) -> Command:
    """The command for a command line: with a service if it has SERVICE_FLAG, else with a model."""
    if has_service_flag(arguments):
        from ..service import summary_command

        description = f"{_DESCRIPTION}, through a service. Without {SERVICE_FLAG}, a model in this process writes them."
        parser = _make_parser(description)
        summary_command.add_flags(parser)
        return Command(parser, summary_command.start)
    from . import model_command

    description = (
        f"{_DESCRIPTION}, with a model in this process. With {SERVICE_FLAG} URL, a service writes them: `{_PROG} "
        f"{_OF_SERVICE}` shows its flags."
    )
    parser = _make_parser(description)
    model_command.add_flags(parser)
    for flag in ("--model", "--api_key_env"):
        refuse(parser, flag, f"is a flag of services; give {SERVICE_FLAG} URL, too")
    return Command(parser, model_command.start)


def _make_parser(description: str) -> argparse.ArgumentParser:
    parser = run_flags.make_table_parser(_PROG, description)
    add_caption_column(parser)
    add_summary_flags(parser)
    return parser
