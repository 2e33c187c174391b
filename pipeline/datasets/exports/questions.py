"""The questions of a run, as far as its report tells them: a conversation must not have a question that was not asked.

The report has the whole prompts. A question is found in a prompt if it stands between the clip and the end of a known
conversation template.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.captioning.captioners import prompt_formats
from pipeline.captioning.captioners.family_prompts import FAMILY_PROMPTS
from pipeline.captioning.captioners.prompt_formats import PromptFormat
from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION, IMAGE_PLACEHOLDER, TEMPLATES
from pipeline.captioning.meta.names import TEXT_COLUMN, column_list
from pipeline.captioning.process.errors import UsageError

_MOVED_SYSTEM = "the system prompt stands before the question"
_AFTER_TIMES = "related to this video.\n"
"""The end of the sentences about times that LLaVA-Video puts before the question, see `time_instruction`."""


def run_question(report: Mapping[str, Any], column: str, question_column: str | None) -> str:
    """The question that the captions in `column` answer; of rows with a question of their own, that of the others.

    report: of the run that wrote the table. It may be empty: then captions in `text` answer the default question.
    question_column: the column with the question of each row, if the export uses one.

    Raises:
        UsageError: the question is not known.
    """
    fingerprint = report.get("fingerprint", {})
    entry = fingerprint.get(f"prompt {column}", fingerprint.get("prompt") if column == TEXT_COLUMN else None)
    if entry is None and column == TEXT_COLUMN:
        return DEFAULT_QUESTION
    if entry is None:
        raise UsageError(f"the question of column '{column}' is not known: no report beside the table has it; {_FIX}")
    cells = str(fingerprint.get("question cells", ""))
    own = column_list([question_column]) if question_column is not None else None
    if cells and cells.rpartition(" ")[0] != own:
        raise UsageError(
            f"the question of column '{column}' is not the same for all rows: it contains cells of the table; {_FIX}, "
            "or a column with the questions as --question_column"
        )
    question = _question_in(str(entry))
    if question:
        return question
    if DEFAULT_QUESTION in str(entry):
        return DEFAULT_QUESTION
    raise UsageError(f"the question of column '{column}' can't be found in the prompt of the report; {_FIX}")


_FIX = "give it as --question (one for each --column, in the same order)"


def _question_in(entry: str) -> str:
    """The question in a fingerprint's entry of a prompt; '' if it is not found."""
    text = _prompt_text(entry)
    if _MOVED_SYSTEM in entry or _AFTER_TIMES in text:
        return ""
    placeholder = max(_placeholders(), key=lambda name: text.rfind(name) + len(name) if name in text else -1)
    _, found, rest = text.rpartition(placeholder)
    fitting = [
        (before, after)
        for before, after in _surroundings()
        if rest.startswith(before) and rest.endswith(after) and len(before) + len(after) <= len(rest)
    ]
    if not found or not fitting:
        return ""
    before, after = max(fitting, key=lambda pair: len(pair[0]) + len(pair[1]))
    return rest[len(before) : len(rest) - len(after)].strip()


def _prompt_text(entry: str) -> str:
    """The prompt of an entry, which is the prompt itself, or names its source: `published prompt vicuna: '…'`."""
    source, _, quoted = entry.partition(": ")
    if not source.startswith(("published prompt", "chat template")):
        return entry
    try:
        return str(ast.literal_eval(quoted))
    except (ValueError, SyntaxError):
        return ""


def _placeholders() -> set[str]:
    of_families = {name for family in FAMILY_PROMPTS.values() for name in family.placeholders.values() if name}
    return of_families | {IMAGE_PLACEHOLDER}


def _surroundings() -> Iterator[tuple[str, str]]:
    """What known templates write between the last placeholder and the question, and after the question."""
    for template in TEMPLATES.values():
        before, _, after = template.user.partition("{question}")
        yield before.rpartition(IMAGE_PLACEHOLDER)[2], after
    for known in vars(prompt_formats).values():
        if isinstance(known, PromptFormat) and "{blocks}" in known.user:
            before, _, after = known.user.partition("{question}")
            yield known.block.rpartition("{token}")[2] + before.rpartition("{blocks}")[2], after
