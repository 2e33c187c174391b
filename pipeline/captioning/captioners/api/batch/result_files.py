"""The lines of an output file or an error file of the Batch API. Knows nothing about the network and the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..answer import Answer
from ..errors import BLOCKED, REJECTED, SERVICE, TryAgain
from ..responses import answer_of, error_message, error_object, has_error, is_filtered, read_json

_OK = 200
_MAY_SUCCEED_LATER = (408, 409, 425, 429)
"""Statuses from 400 to 499 that do not say that the request itself is wrong."""


@dataclass(frozen=True)
class ResultLine:
    """What became of a request: an answer; or no answer, the stage of the failure, and what the service said."""

    custom_id: str
    answer: Answer | None = None
    stage: str = ""
    message: str = ""


def result_lines(path: Path) -> Iterator[ResultLine | None]:
    """The lines of a file, in any order; None for a damaged one.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield _result_line(line)


def _result_line(line: bytes) -> ResultLine | None:
    try:
        record = _mapping(read_json(line))
    except ValueError:
        return None
    custom_id = record.get("custom_id")
    if not isinstance(custom_id, str):
        return None
    response = _mapping(record.get("response"))
    status, body = response.get("status_code", _OK), response.get("body")
    if response and status == _OK and not record.get("error") and not has_error(body):
        try:
            return ResultLine(custom_id, answer_of(body))
        except TryAgain as problem:
            return ResultLine(custom_id, None, SERVICE, str(problem))
    error = error_object(record.get("error") or body)
    said, code = error_message(error), str(error.get("code") or "")
    parts = (f"status {status}" if status != _OK else "", "" if code in said else code, said)
    message = ": ".join(filter(None, parts)) or "an error without a message"
    if is_filtered(error):
        return ResultLine(custom_id, None, BLOCKED, message)
    is_rejected = isinstance(status, int) and 400 <= status < 500 and status not in _MAY_SUCCEED_LATER
    return ResultLine(custom_id, None, REJECTED if is_rejected else SERVICE, message)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
