"""The flags of the prompt: what is asked about every clip, and which columns receive the answers.

Knows nothing about the checkpoint; what a family does not allow in a question is checked by its source.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

from ..captioners.named_prompts import NAMED_PROMPTS, NamedPrompt, listing
from ..captioners.prompts import DEFAULT_QUESTION, TEMPLATES
from ..meta.asks import Ask, Asks, Question
from ..meta.names import TEXT_COLUMN
from ..process.errors import UsageError
from ..workers.launch import Launch

_NAMED = "prompt:"
"""Begins an ask that is a named prompt."""
_LITERAL_HINT = "write @@ for a question that begins with @"
_ASK_NAME = re.compile(r"[\w-]+")
_MAX_QUESTION_BYTES = 1 << 20
"""Size of a question's file. No model reads as much; a larger file is a mistake, for example a table or a video."""


def add_prompt_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the prompt. The flags of questions are read by `asks_from_flags`."""
    prompt = parser.add_argument_group("prompt")
    prompt.add_argument(
        "--question",
        type=question,
        help="question that the model is asked about every clip; {COLUMN} is replaced by the row's cell in this "
        f"column ({{{{ and }}}} are braces), and @FILE reads the question from a file; if not given, "
        f"'{DEFAULT_QUESTION}', and none for blip-2",
    )
    prompt.add_argument(
        "--prompt", choices=NAMED_PROMPTS, metavar="NAME", help="ask a named prompt; --list_prompts prints all of them"
    )
    prompt.add_argument(
        "--list_prompts", action=_ListPrompts, help="print the names and the texts of the named prompts, and exit"
    )
    prompt.add_argument(
        "--question_column",
        type=utf8,
        metavar="NAME",
        help="column of the table with the question about each row; where its cell is empty, --question or --prompt is "
        "asked",
    )
    prompt.add_argument(
        "--ask",
        type=named_ask,
        action="append",
        metavar="NAME=QUESTION",
        help=f"one of several questions about every clip; its captions are written to the column {TEXT_COLUMN}_NAME; "
        f"QUESTION may be @FILE, or {_NAMED} and the name of a prompt",
    )
    prompt.add_argument(
        "--column", type=utf8, metavar="NAME", help=f"column that receives the captions; if not given, {TEXT_COLUMN}"
    )
    prompt.add_argument(
        "--any_media", action="store_true", help="ask named prompts for images about videos, too, and the reverse"
    )


def add_conversation_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the conversation that contains the question."""
    conversation = parser.add_argument_group("conversation")
    conversation.add_argument(
        "--system",
        help="system prompt; if not given, pllava gets one that asks for every detail ('' for none), and the other "
        "families get that of their template",
    )
    conversation.add_argument(
        "--conv_mode",
        choices=sorted(TEMPLATES),
        help="pllava: conversation template; if not given, chosen from the checkpoint's vocabulary",
    )


def check_prompt_flags(flags: argparse.Namespace) -> Asks:
    """Check the flags of questions and columns as far as that is possible without the table and the checkpoint.

    Returns what is asked; a family may have another question if the flags give none.

    Raises:
        UsageError: flags that do not go together, or columns that can't receive captions.
    """
    if flags.ask:
        first = flags.ask[0]
        for flag, value, fix in (
            ("--question", flags.question, "give this question as another --ask NAME=QUESTION"),
            ("--prompt", flags.prompt, f"give this prompt as another --ask NAME={_NAMED}{flags.prompt}"),
            (
                "--question_column",
                flags.question_column,
                "insert the column into one of the questions: --ask NAME='{COLUMN}'",
            ),
            ("--column", flags.column, f"the columns are named by --ask: {first.flag} has {first.column}"),
        ):
            if value is not None:
                raise UsageError(f"{flag} does not go with --ask; {fix}")
    if flags.question is not None and flags.prompt is not None:
        raise UsageError(
            f"--question and --prompt {flags.prompt} are both the question about every clip; give one of them, or "
            "several with --ask"
        )
    if flags.question_column is not None and not flags.question_column.strip():
        raise UsageError("--question_column is blank; give the name of a column, or leave it out")
    asks = asks_from_flags(flags, DEFAULT_QUESTION)
    if flags.any_media and not any(ask.prompt for ask in asks.asks):
        raise UsageError(
            f"--any_media is only read with a named prompt, --prompt NAME or --ask NAME={_NAMED}NAME; leave it out"
        )
    return asks


def asks_from_flags(flags: argparse.Namespace, default_question: str) -> Asks:
    """What is asked about every clip. flags: as `check_prompt_flags` accepts them.

    default_question: the question if the flags give none; its braces are braces.

    Raises:
        UsageError: see `Asks`.
    """
    asks = flags.ask or [_only_ask(flags, default_question)]
    if flags.any_media:
        asks = [dataclasses.replace(ask, medium="") for ask in asks]
    return Asks(tuple(asks), flags.question_column or "")


def _only_ask(flags: argparse.Namespace, default_question: str) -> Ask:
    column = TEXT_COLUMN if flags.column is None else flags.column
    if flags.prompt is not None:
        return _ask_of_prompt(column, NAMED_PROMPTS[flags.prompt], f"--prompt {flags.prompt}")
    return Ask(column, Question.literal(default_question) if flags.question is None else flags.question)


def _ask_of_prompt(column: str, prompt: NamedPrompt, flag: str) -> Ask:
    return Ask(column, Question(prompt.text), flag, prompt.name, prompt.medium)


def utf8(text: str) -> str:
    """An argparse type: a text of valid characters. Other bytes could neither be tokenized nor written to a table."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8; give it in this encoding") from None
    return text


def question(text: str) -> Question:
    """An argparse type: a question, or `@` and the name of a file with a question; `@@` begins a question with `@`."""
    try:
        if text.startswith("@@"):
            return Question(utf8(text[1:]))
        return Question(_file_text(text[1:]) if text.startswith("@") else utf8(text))
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def named_ask(text: str) -> Ask:
    """An argparse type: `NAME=QUESTION`, with a question as in `question`, or `prompt:` and the name of a prompt."""
    name, sign, asked = text.partition("=")
    if not sign or not _ASK_NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=QUESTION with a name of letters, digits, _ and -, as in "
            "short='Describe the video in one sentence.'"
        )
    column, flag = utf8(f"{TEXT_COLUMN}_{name}"), f"--ask {name}"
    if not asked.startswith(_NAMED):
        try:
            return Ask(column, question(asked), flag)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{name}: {error}") from error
    prompt = NAMED_PROMPTS.get(asked.removeprefix(_NAMED))
    if prompt is None:
        raise argparse.ArgumentTypeError(
            f"{name}: there is no prompt {asked.removeprefix(_NAMED)!r}; the prompts are {', '.join(NAMED_PROMPTS)}. A "
            f"question that begins with {_NAMED} can be read from a file: {name}=@FILE"
        )
    return _ask_of_prompt(column, prompt, flag)


def _file_text(name: str) -> str:
    """The text of a question's file without a line end at its end.

    Raises:
        UsageError: the file can't be read, is too large, is not UTF-8, or has no text.
    """
    if not name:
        raise UsageError(f"no file is named after @; {_LITERAL_HINT}")
    path = Path(name)
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"the question's file {path} is not a file; {_LITERAL_HINT}")
        with path.open("rb") as file:
            data = file.read(_MAX_QUESTION_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the question's file {path} can't be read: {error.strerror}; {_LITERAL_HINT}") from error
    if len(data) > _MAX_QUESTION_BYTES:
        raise UsageError(f"the question's file {path} is larger than 1 MiB; give a text file with one question")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the question's file {path} is not UTF-8 (byte {error.start + 1}); save it as UTF-8"
        ) from error
    if not text.strip():
        raise UsageError(f"the question's file {path} has no text; write the question into it")
    return text


class _ListPrompts(argparse.Action):
    """Prints the named prompts and exits, as `--help` does; of several workers only rank 0 prints them."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        if Launch.from_environment().is_leader:
            sys.stdout.write(f"{listing()}\n")
        parser.exit()
