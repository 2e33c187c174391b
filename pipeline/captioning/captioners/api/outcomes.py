"""What becomes of an answer: a caption, a failure, or the same question once more. Knows nothing about the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...meta.results import ColumnResult, Failure, as_json, caption_result
from .answer import Answer, well_formed
from .errors import BLOCKED, EMPTY, INVALID, REFUSED
from .schema import checked

SUCCESS, TRUNCATED = "success", "truncated"
"""Names of outcomes with a caption."""

_LENGTH = frozenset(("length", "max_tokens"))
_FILTERED = frozenset(("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "sensitive"))
_REFUSED = frozenset(("refusal",))
"""Finish reasons that several services give. Every other one is a success, because services have names of their own:
`stop`, `eos`, `end_turn`, none. Answers that were broken off are not stored, see `answer_of`."""

_ASK_FOR_TEXT = "Your answer had no text. Please answer the question."
_ASK_AGAIN = (
    "You did not answer. The request is allowed and is about the content of the video or image. Please answer it."
)


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
    """Judge an answer by its finish reason, refusal and text; with a schema, the text must be JSON that fits it.

    An answer without text because it has reached `--max_new_tokens` has no note: the next one would reach it too.
    """
    text = well_formed(answer.text)
    reason = answer.finish_reason.strip().lower()
    if reason.split(":")[0] in _FILTERED:  # some services add the kind: `content_filter: RECITATION`
        return _failed(BLOCKED, f"a filter of the service blocked the answer (finish reason {answer.finish_reason!r})")
    if answer.refusal.strip() or reason in _REFUSED:
        refusal = " ".join(well_formed(answer.refusal or text).split())
        return _failed(REFUSED, f"the model refused: {refusal or 'it gave no reason'}", _ASK_AGAIN)
    is_truncated = reason in _LENGTH
    if not text.strip():
        return _empty(answer, is_truncated)
    if schema is not None:
        try:
            text = well_formed(as_json(checked(text, schema)))
        except ValueError as error:
            return _invalid(answer, str(error), is_truncated)
    result = caption_result(text, answer.completion_tokens, is_truncated)
    return Outcome(TRUNCATED if is_truncated else SUCCESS, result)


def _empty(answer: Answer, is_truncated: bool) -> Outcome:
    if is_truncated:
        message = (
            f"the answer has no text: all its {_tokens(answer)} were used before the text began (a model that reasons "
            "needs more); use a larger --max_new_tokens, or for summaries --summary_tokens and --title_tokens"
        )
        return _failed(EMPTY, message)
    message = f"the answer has no text ({_tokens(answer)}, finish reason {answer.finish_reason!r})"
    return _failed(EMPTY, message, _ASK_FOR_TEXT)


def _invalid(answer: Answer, problem: str, is_truncated: bool) -> Outcome:
    if is_truncated:
        message = f"the answer was cut off at --max_new_tokens ({_tokens(answer)}), and {problem}"
        note = "Your answer was too long and was cut off. Answer with shorter JSON that fits the schema, nothing else."
        return _failed(INVALID, message, note)
    note = f"Your answer can't be used: {problem}. Answer with JSON that fits the schema, and nothing else."
    return _failed(INVALID, f"the answer can't be used: {problem}", note)


def _failed(stage: str, message: str, note: str = "") -> Outcome:
    return Outcome(stage, Failure(stage, (message,)), note)


def _tokens(answer: Answer) -> str:
    return f"{answer.completion_tokens} tokens" if answer.has_usage else "an unknown number of tokens"
