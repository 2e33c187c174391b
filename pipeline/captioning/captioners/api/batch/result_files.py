"""The lines of an output file or an error file of the Batch API. Knows nothing about the network and the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..answer import Answer
from ..errors import BLOCKED, SERVICE, RequestFailed, TryAgain

ReadAnswer: TypeAlias = Callable[[Any], Answer]
"""The answer in the body of a completion; raises TryAgain or RequestFailed if it has none that can be used."""

_BLOCKED_CODES = frozenset(("content_filter", "content_policy_violation"))
_LONGEST_MESSAGE = 500
_OK = 200


@dataclass(frozen=True)
class ResultLine:
    """What became of a request: an answer; or no answer, the stage of the failure, and a message."""

    custom_id: str
    answer: Answer | None = None
    stage: str = ""
    message: str = ""


def result_lines(path: Path, read_answer: ReadAnswer) -> Iterator[ResultLine | None]:
    """The lines of a file, in any order; None for a damaged one.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield _result_line(line, read_answer)


def _result_line(line: bytes, read_answer: ReadAnswer) -> ResultLine | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    custom_id = record.get("custom_id") if isinstance(record, dict) else None
    if not isinstance(custom_id, str):
        return None
    response = _mapping(record.get("response"))
    body = _mapping(response.get("body"))
    error = _mapping(record.get("error")) or _mapping(body.get("error"))
    status = response.get("status_code", _OK)
    if status == _OK and response and not error:
        try:
            return ResultLine(custom_id, read_answer(body))
        except RequestFailed as problem:
            return ResultLine(custom_id, None, problem.stage, str(problem))
        except TryAgain as problem:
            return ResultLine(custom_id, None, SERVICE, str(problem))
    stage = BLOCKED if error.get("code") in _BLOCKED_CODES else SERVICE
    parts = (f"status {status}" if status != _OK else "", error.get("code"), error.get("message"))
    message = ": ".join(" ".join(str(part).split()) for part in parts if part)
    return ResultLine(custom_id, None, stage, message[:_LONGEST_MESSAGE] or "an error without a message")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
