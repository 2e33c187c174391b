"""The flags of summaries and titles, whatever writes them: parsed, and checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from ...meta.asks import Question
from ...meta.names import TEXT_COLUMN, summary_output
from ...meta.table import MetaTable
from ...process.arguments import positive_int
from ...process.errors import UsageError
from ...workers.launch import Launch
from ..options import JobOptions, job_options
from ..prompt_flags import question, utf8
from .settings import (
    DEFAULT_CONTEXT_TOKENS,
    DEFAULT_PART_QUESTION,
    DEFAULT_SUMMARY_QUESTION,
    DEFAULT_TITLE_QUESTION,
    SummaryAsks,
    SummarySettings,
)

SERVICE_FLAG = "--base_url"
"""Chooses a service."""


_DEFAULTS = {"summary": DEFAULT_SUMMARY_QUESTION, "part": DEFAULT_PART_QUESTION, "title": DEFAULT_TITLE_QUESTION}


def add_caption_column(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the column with the captions of the segments."""
    parser.add_argument(
        "--column",
        type=utf8,
        default=TEXT_COLUMN,
        metavar="NAME",
        help=f"column of the table with the captions of the segments; if not given, {TEXT_COLUMN}",
    )


def has_service_flag(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a service."""
    return any(argument.partition("=")[0] == SERVICE_FLAG for argument in arguments)


def add_summary_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `summary_settings` reads."""
    defaults = SummarySettings()
    summary = parser.add_argument_group("summary and title")
    for name, what in (
        ("summary", "asked after the captions of a video"),
        ("part", "asked after some of the captions, if all do not fit into the window"),
        ("title", "asked after the summary"),
    ):
        summary.add_argument(
            f"--{name}_question",
            type=question,
            help=f"question that is {what}, or @FILE; if not given, '{_DEFAULTS[name]}'",
        )
    summary.add_argument(
        "--summary_tokens",
        type=positive_int,
        default=defaults.summary_tokens,
        help="maximum length of a summary, in tokens",
    )
    summary.add_argument(
        "--title_tokens", type=positive_int, default=defaults.title_tokens, help="maximum length of a title, in tokens"
    )
    summary.add_argument(
        "--context_tokens",
        type=positive_int,
        help="longest prompt together with its answer, in tokens; longer texts are summarised in parts, and then these "
        f"summaries; if not given, {DEFAULT_CONTEXT_TOKENS}, or the window of a model in this process if it is smaller",
    )


def summary_settings(flags: argparse.Namespace, system: str) -> SummarySettings:
    """What the flags ask for.

    system: the system prompt of summaries; empty for none.

    Raises:
        UsageError: a question is blank, or contains a column.
    """
    texts = {name: _text(flags, name) for name in _DEFAULTS}
    return SummarySettings(
        texts["summary"],
        texts["part"],
        texts["title"],
        flags.summary_tokens,
        flags.title_tokens,
        flags.context_tokens,
        system,
    )


def summary_job(flags: argparse.Namespace, launch: Launch, settings: SummarySettings) -> JobOptions:
    """Check the flags of the run, and the table.

    Raises:
        UsageError: see `job_options` and `MetaTable.check`.
    """
    if flags.output is None:
        flags.output = summary_output(flags.meta_path)
    flags.max_new_tokens = max(settings.summary_tokens, settings.title_tokens)  # the longest result that is gathered
    options = replace(job_options(flags, SummaryAsks.of(settings).columns), lease_rows=1)
    if launch.rank == 0:  # the table need not exist on other hosts
        use = {flags.column: "summaries are made of its captions (--column)"}
        MetaTable.check(options.meta_path, options.output, (), use, options.whole_files)
    return options


def _text(flags: argparse.Namespace, name: str) -> str:
    flag = f"--{name}_question"
    asked: Question | None = getattr(flags, f"{name}_question")
    if asked is None:
        return _DEFAULTS[name]
    if asked.columns:
        raise UsageError(
            f"{flag}: {{{asked.columns[0]}}} stands for a column, but the question is about the captions of a video; "
            "write {{ and }} for braces"
        )
    text = asked.render({})
    if not text.strip():
        raise UsageError(f"the question of {flag} is blank; write a question, or leave {flag} out")
    return text


def set_caption_defaults(flags: argparse.Namespace) -> None:
    """Set the flags of captions that a command without captions does not have, so that a checkpoint can be checked."""
    for name in ("question", "prompt", "question_column", "ask"):
        setattr(flags, name, None)
    flags.any_media = False
    for name in ("sampling", "num_frames", "fps", "max_frames", "short_side"):
        setattr(flags, name, None)
    flags.max_new_tokens = 1


def refuse(parser: argparse.ArgumentParser, flag: str, message: str) -> None:
    """Let a flag, which `--help` does not show, be a usage error that says why. message: follows the flag."""
    parser.add_argument(flag, action=_Refused, nargs="?", const=message, help=argparse.SUPPRESS)


class _Refused(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        parser.error(f"{self.option_strings[0]} {self.const}")
