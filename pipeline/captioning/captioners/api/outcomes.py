"""What becomes of an answer: a caption, a failure, or the same question once more. Knows nothing about the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...meta.results import ColumnResult
from .answer import Answer


@dataclass(frozen=True)
class Outcome:
    """What an answer is.

    name: `success`, `truncated`, or a stage of `errors`.
    result: a caption or a failure.
    note: tells the model what was wrong with its answer, if the question may be asked once more; empty otherwise.
    """

    name: str
    result: ColumnResult
    note: str = ""


def outcome_of(answer: Answer, schema: Mapping[str, Any] | None) -> Outcome:
    """Judge an answer by its finish reason, refusal and text; with a schema, the text must be JSON that fits it."""
    raise NotImplementedError
