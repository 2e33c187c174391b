"""Export to conversations in the layout of ShareGPT, as trainers of the LLaVA family read them: one JSON array.

Each caption is a record of its own: a question by `human` with the placeholder of the clip, and the answer by `gpt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.captioning.meta.files import atomic_write
from pipeline.captioning.meta.ranges import range_fields
from pipeline.captioning.meta.results import as_json
from pipeline.captioning.process.errors import UsageError

from .failures import FailedRows
from .known_media import KnownMedia
from .rows import CaptionedTable, Row

_PLACEHOLDERS = ("<video>", "<image>")


def check_questions(questions: Sequence[str]) -> None:
    """Check that questions leave the placeholder to this export.

    Raises:
        UsageError: a question is empty or contains a placeholder.
    """
    for question in questions:
        problem = _placeholder_problem("it", question) or ("" if question.strip() else "it is empty")
        if problem:
            raise UsageError(f"--question {question!r} can't be used: {problem}")


def write_conversations(
    table: CaptionedTable,
    questions: Sequence[str],
    question_column: str | None,
    media: KnownMedia,
    output: Path,
    failed: FailedRows,
) -> int:
    """Write the captioned rows of `table` to `output`; returns their number. An earlier file is kept as `.bak`.

    questions: one for each caption column of the table.
    question_column: column with the question of a row; where its cell is empty, `questions` are used.

    Raises:
        UsageError: a row can't be read; `output` is unchanged.
        RunError: no row can be exported, or `output` can't be written.
    """
    written, separator = 0, "[\n"
    with atomic_write(output, keep_backup=True) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in table.captioned_rows([] if question_column is None else [question_column]):
            own_question = str(row.cells[0]) if row.cells and row.cells[0] is not None else ""
            asked = [own_question] * len(questions) if own_question.strip() else list(questions)
            problem = _placeholder_problem("the row", *row.captions, *asked)
            if problem:
                failed.add(row, problem)
                continue
            for record in _records(table.captions, row, asked, media.of(row)):
                file.write(separator + as_json(record))
                separator = ",\n"
            written += 1
        table.check_exported(written, failed.summary)
        file.write("\n]\n")
    return written


def _records(columns: Sequence[str], row: Row, questions: Sequence[str], medium: str) -> Iterator[dict[str, object]]:
    for column, question, caption in zip(columns, questions, row.captions, strict=True):
        if not caption.strip():
            continue
        yield {
            "id": row.key if len(columns) == 1 else f"{row.key}_{column}",
            medium: row.path,
            **range_fields(row.range),
            "conversations": [
                {"from": "human", "value": f"<{medium}>\n{question}"},
                {"from": "gpt", "value": caption},
            ],
        }


def _placeholder_problem(what: str, *texts: str) -> str:
    """Why these texts would break the count of placeholders in a conversation; '' if they don't."""
    found = next((name for name in _PLACEHOLDERS for text in texts if name in text), None)
    return f"{what} contains {found}, which trainers replace by the clip; remove it" if found else ""
