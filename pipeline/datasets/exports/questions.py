"""The questions of a run, from its report: a conversation must not have a question that was not asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.captioning.captioners.prompts import DEFAULT_QUESTION
from pipeline.captioning.meta.asks import Question
from pipeline.captioning.meta.names import TEXT_COLUMN
from pipeline.captioning.process.errors import UsageError

_FIX = "give it as --question (one for each --column, in the same order)"


def run_question(report: Mapping[str, Any], column: str, question_column: str | None) -> str:
    """The question that the captions in `column` answer; of rows with a question of their own, that of the others.

    report: of the run that wrote the table. It may be empty: then captions in `text` answer the default question.
    question_column: the column with the question of each row, if the export uses one.

    Raises:
        UsageError: the question is not known.
    """
    if not report and column == TEXT_COLUMN:
        return DEFAULT_QUESTION
    text = report.get("questions", {}).get(column)
    if text is None:
        raise UsageError(f"the question of column '{column}' is not known: no report beside the table has it; {_FIX}")
    question = Question(text)
    if question.columns or report.get("question_column", "") not in ("", question_column):
        raise UsageError(
            f"the question of column '{column}' is not the same for all rows: it contains cells of the table; {_FIX}, "
            "or a column with the questions as --question_column"
        )
    if not text.strip():
        raise UsageError(f"the question of column '{column}' is blank; {_FIX}")
    return question.render({})
