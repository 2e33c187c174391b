"""What is asked about every clip, and the columns of the answers.

Knows nothing about models, their prompts and files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..process.errors import UsageError
from .names import PATH_COLUMN, RANGE_COLUMNS, TEXT_COLUMN

_SHOWN = 100
"""Characters of a question that a message shows: a question that is read from a file may be long."""
_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class Question:
    """A question in which `{column}` stands for the row's cell in this column; `{{` and `}}` are braces.

    Raises:
        UsageError: a brace that is not closed or not opened, or `{}`.
    """

    text: str

    def __post_init__(self) -> None:
        for part in _PART.finditer(self.text):
            if part[0] in "{}" or part[0] == "{}":
                shown = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}…"
                raise UsageError(
                    f"question {shown!r}: {part[0]!r} at character {part.start() + 1} does not enclose the name of "
                    "a column; write {{ or }} for a brace"
                )

    @classmethod
    def literal(cls, text: str) -> Question:
        """The question with exactly this text."""
        return cls(text.replace("{", "{{").replace("}", "}}"))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose cells the question contains, in order, each once."""
        return tuple(dict.fromkeys(part[1] for part in _PART.finditer(self.text) if part[1] is not None))

    def render(self, cells: Mapping[str, str]) -> str:
        """The question about a row. cells: at least those of `columns`."""

        def replacement(part: re.Match[str]) -> str:
            return part[0][0] if part[1] is None else cells[part[1]]

        return _PART.sub(replacement, self.text)


@dataclass(frozen=True)
class Ask:
    """A question, and the column of the table that receives its answers.

    flag: what the user gave for it, for messages: `--question`, `--prompt video`, `--ask short`.
    prompt: name of the named prompt that the question is; empty for a question of the user.
    medium: `image` or `video` if the question may be asked about these only; empty for both.
    """

    column: str
    question: Question
    flag: str = "--question"
    prompt: str = ""
    medium: str = ""


@dataclass(frozen=True)
class Asks:
    """Everything that is asked about every clip; at least one question.

    question_column: a column of the table whose cell, if it is not blank, is the whole question in place of that of the
        only ask; empty for none.

    Raises:
        UsageError: two asks have the same column, or a column can't receive captions: it has paths, times or questions.
    """

    asks: tuple[Ask, ...]
    question_column: str = ""

    def __post_init__(self) -> None:
        assert self.asks and (len(self.asks) == 1 or not self.question_column)
        for column in self.columns:
            if not column.strip() or column in (PATH_COLUMN, *RANGE_COLUMNS):
                raise UsageError(f"captions can't be written to the column {column!r}; choose another name")
            if self.columns.count(column) > 1:
                raise UsageError(f"two questions have the column {column!r}; choose different names")
        if self.question_column in self.columns:
            raise UsageError(
                f"captions can't be written to the column {self.question_column!r}, which has the questions; choose "
                "another name with --column"
            )

    @classmethod
    def single(cls, question: str, column: str = TEXT_COLUMN) -> Asks:
        """One question, whose text is the same for all rows."""
        return cls((Ask(column, Question.literal(question)),))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that receive captions, in order."""
        return tuple(ask.column for ask in self.asks)

    @property
    def cell_columns(self) -> tuple[str, ...]:
        """The columns of the table whose cells the questions need, each once."""
        return tuple(self.cell_uses)

    @property
    def cell_uses(self) -> dict[str, str]:
        """For each of `cell_columns`, the first use of its cells, for messages."""
        uses: dict[str, str] = {}
        for ask in self.asks:
            hint = "" if ask.prompt else "; write {{ and }} for braces"
            for column in ask.question.columns:
                uses.setdefault(column, f"{ask.flag} inserts its cells{hint}")
        if self.question_column:
            uses.setdefault(self.question_column, "--question_column takes questions from it")
        return uses

    @property
    def texts(self) -> tuple[str, ...]:
        """The questions as they were given, for messages and for arithmetic: without braces for constant ones."""
        return tuple(ask.question.text if ask.question.columns else ask.question.render({}) for ask in self.asks)

    def questions(self, cells: Sequence[str]) -> tuple[str, ...]:
        """The questions about a row, one for each ask. cells: of the row, in the order of `cell_columns`."""
        if self.has_own_question(cells):
            return (cells[self.cell_columns.index(self.question_column)],)
        named = dict(zip(self.cell_columns, cells, strict=True))
        return tuple(ask.question.render(named) for ask in self.asks)

    def has_own_question(self, cells: Sequence[str]) -> bool:
        """Whether the row's cell in `question_column` is its question. cells: as in `questions`."""
        if not self.question_column:
            return False
        return bool(cells[self.cell_columns.index(self.question_column)].strip())
