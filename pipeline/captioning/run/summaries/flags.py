"""The flags of summaries and titles."""

from __future__ import annotations

import argparse

from ...generation.options import GenerationOptions
from ...meta.asks import Question
from ...process.arguments import positive_int
from ...process.errors import UsageError
from ..prompt_flags import question
from .settings import (
    DEFAULT_CONTEXT_TOKENS,
    DEFAULT_PART_QUESTION,
    DEFAULT_SUMMARY_QUESTION,
    DEFAULT_TITLE_QUESTION,
    SummarySettings,
)


def add_summary_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `summary_settings` reads."""
    defaults = SummarySettings()
    summary = parser.add_argument_group("summary and title")
    for name, what, default in (
        ("summary", "asked after the captions of a video", DEFAULT_SUMMARY_QUESTION),
        ("part", "asked after some of the captions, if all do not fit into the window", DEFAULT_PART_QUESTION),
        ("title", "asked after the summary", DEFAULT_TITLE_QUESTION),
    ):
        summary.add_argument(
            f"--{name}_question",
            type=question,
            default=Question.literal(default),
            help=f"question that is {what}, or @FILE; if not given, '{default}'",
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
        f"summaries; if not given, the window of the model, but at most {DEFAULT_CONTEXT_TOKENS}",
    )


def summary_settings(flags: argparse.Namespace, system: str) -> SummarySettings:
    """What the flags ask for.

    system: the system prompt of summaries; empty for none.

    Raises:
        UsageError: a question is blank, or contains a column.
    """
    texts = {name: _text(flags, f"{name}_question") for name in ("summary", "part", "title")}
    return SummarySettings(
        texts["summary"],
        texts["part"],
        texts["title"],
        flags.summary_tokens,
        flags.title_tokens,
        flags.context_tokens,
        system,
    )


def _text(flags: argparse.Namespace, name: str) -> str:
    asked: Question = getattr(flags, name)
    if asked.columns:
        raise UsageError(
            f"--{name}: {{{asked.columns[0]}}} stands for a column, but the question is about the captions of a video; "
            "write {{ and }} for braces"
        )
    text = asked.render({})
    if not text.strip():
        raise UsageError(f"the question of --{name} is blank; write a question, or leave --{name} out")
    return text


def set_caption_defaults(flags: argparse.Namespace) -> None:
    """Set the flags of captions that a command without captions does not have, so that a checkpoint can be checked."""
    for name in ("question", "prompt", "question_column", "ask"):
        setattr(flags, name, None)
    flags.any_media = False
    for name in ("sampling", "num_frames", "fps", "max_frames", "short_side"):
        setattr(flags, name, None)
    flags.max_new_tokens = min(GenerationOptions().max_new_tokens, flags.summary_tokens)
