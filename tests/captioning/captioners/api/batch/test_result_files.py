"""The lines of result files: answers, filters, errors in the forms of several services."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.captioners.api.batch.result_files import ResultLine, result_lines
from pipeline.captioning.captioners.api.errors import BLOCKED, REJECTED, SERVICE


def line_of(tmp_path: Path, record: dict[str, Any]) -> ResultLine:
    path = tmp_path / "results.jsonl"
    path.write_text("\n" + json.dumps({"custom_id": "a-0", **record}) + "\n")
    (line,) = result_lines(path)
    assert line is not None and line.custom_id == "a-0"
    return line


def response(status: int, body: object) -> dict[str, Any]:
    return {"response": {"status_code": status, "body": body}, "error": None}


def test_answer_is_read_as_that_of_any_request(tmp_path: Path) -> None:
    choice = {"finish_reason": "length", "message": {"content": "A do"}}
    body = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 2}, "error": None}
    answer = line_of(tmp_path, response(200, body)).answer
    assert answer is not None
    assert (answer.text, answer.finish_reason, answer.prompt_tokens) == ("A do", "length", 7)


@pytest.mark.parametrize(
    ("record", "stage", "message"),
    [
        (
            response(400, {"error": {"code": "content_filter", "message": "no"}}),
            BLOCKED,
            "status 400: content_filter: no",
        ),
        (
            response(
                400, {"error": {"code": "x", "message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}
            ),
            BLOCKED,
            "status 400: x: no",
        ),
        (response(200, {"error": {"code": "e", "message": "too\nbusy"}}), SERVICE, "e: too\nbusy"),
        (response(400, {"error": {"message": "too long"}}), REJECTED, "status 400: too long"),
        (response(429, {"error": {"message": "slow"}}), SERVICE, "status 429: slow"),
        (response(500, {"detail": "broken"}), SERVICE, "status 500: broken"),
        (response(502, None), SERVICE, "status 502"),
        (response(200, {}), SERVICE, "unusable answer: it has no choices"),
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, SERVICE, "batch_expired: late"),
        ({"response": None, "error": None}, SERVICE, "an error without a message"),
    ],
)
def test_failures(tmp_path: Path, record: dict[str, Any], stage: str, message: str) -> None:
    assert line_of(tmp_path, record) == ResultLine("a-0", None, stage, message)


@pytest.mark.parametrize("line", ["{not json", "[]", '{"custom_id": 3}', "[" * 100_000])
def test_damaged_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(line + "\n")
    assert list(result_lines(path)) == [None]
