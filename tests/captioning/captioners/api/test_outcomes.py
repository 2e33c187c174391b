"""What becomes of answers."""

from __future__ import annotations

import json

import pytest

from pipeline.captioning.captioners.api.answer import Answer
from pipeline.captioning.captioners.api.errors import BLOCKED, EMPTY, INVALID, REFUSED
from pipeline.captioning.captioners.api.outcomes import Outcome, outcome_of
from pipeline.captioning.meta.results import CaptionResult, Failure
from pipeline.captioning.process.errors import RunError

SCHEMA = {
    "type": "object",
    "properties": {"animal": {"type": "string"}, "count": {"type": "integer", "minimum": 0}},
    "required": ["animal", "count"],
}


def _outcome(text: str, finish_reason: str = "stop", refusal: str = "", schema: dict | None = None) -> Outcome:
    return outcome_of(Answer(text, finish_reason, refusal, 100, 20), schema)


def _message(outcome: Outcome, stage: str) -> str:
    assert isinstance(outcome.result, Failure)
    assert outcome.name == outcome.result.stage == stage
    (message,) = outcome.result.messages
    assert "\n" not in message
    return message


@pytest.mark.parametrize("finish_reason", ["stop", "", "eos", "end_turn", "None", "STOP", "stop_sequence"])
def test_a_caption(finish_reason: str) -> None:
    outcome = _outcome(" A dog\n runs. ", finish_reason)
    assert outcome == Outcome("success", CaptionResult("A dog runs.", 20))


@pytest.mark.parametrize("finish_reason", ["length", "max_tokens"])
def test_a_truncated_caption_is_kept(finish_reason: str) -> None:
    assert _outcome("A dog ru", finish_reason) == Outcome("truncated", CaptionResult("A dog ru", 20, truncated=True))


def test_a_looping_caption_is_marked() -> None:
    result = _outcome("a dog and " * 20).result
    assert isinstance(result, CaptionResult) and result.looping


def test_no_text_within_max_new_tokens_is_not_asked_again() -> None:
    outcome = _outcome(" ", "length")
    message = _message(outcome, EMPTY)
    assert "20 tokens" in message and "--max_new_tokens" in message
    assert outcome.note == ""


@pytest.mark.parametrize("text", ["", " \n", "\0"])
def test_an_empty_answer_is_asked_once_more(text: str) -> None:
    outcome = _outcome(text)
    assert "no text" in _message(outcome, EMPTY)
    assert outcome.note


@pytest.mark.parametrize("finish_reason", ["content_filter", "CONTENT_FILTER", "content_filter: RECITATION", "SAFETY"])
def test_a_blocked_answer_has_no_caption_and_is_not_asked_again(finish_reason: str) -> None:
    outcome = _outcome("A partial", finish_reason)
    assert finish_reason in _message(outcome, BLOCKED)
    assert outcome.note == ""


def test_a_refusal_is_asked_once_more() -> None:
    outcome = _outcome("", refusal="I'm sorry,\nI can't.")
    assert "I'm sorry, I can't." in _message(outcome, REFUSED)
    assert outcome.note
    assert "I won't" in _message(_outcome("I won't", "refusal"), REFUSED)


def test_characters_that_no_file_can_hold() -> None:
    result = _outcome("A dog \ud83d\0 runs").result
    assert isinstance(result, CaptionResult) and result.caption == "A dog \ufffd runs"


class TestSchema:
    @pytest.mark.parametrize(
        "text",
        [
            '{"animal": "dog", "count": 2}',
            '\n{"animal":\n "dog",\n "count": 2}\n',
            '```json\n{"animal": "dog", "count": 2}\n```',
            '```\n{"animal": "dog", "count": 2}\n```\n',
        ],
    )
    def test_json_that_fits_is_the_caption_in_one_line(self, text: str) -> None:
        outcome = _outcome(text, schema=SCHEMA)
        assert outcome == Outcome("success", CaptionResult('{"animal": "dog", "count": 2}', 20))

    def test_text_in_other_alphabets_stays_readable(self) -> None:
        result = _outcome('{"animal": "\\u72d7 \\ud83d", "count": 1}', schema=SCHEMA).result
        assert isinstance(result, CaptionResult) and json.loads(result.caption)["animal"] == "狗 \ufffd"
        assert "狗" in result.caption

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("A dog.", "not JSON"),
            ('{"animal": "dog", "count": 2} and more', "not JSON"),
            ('{"animal": "dog", "count": NaN}', "not JSON"),
            ("[" * 100_000, "not JSON"),
            ('{"animal": "dog", "count": "two"}', "$.count: 'two' is not of type 'integer'"),
            ('{"animal": "dog", "count": -1}', "$.count"),
            ('{"animal": "dog"}', "'count' is a required property"),
            ("[1]", "is not of type 'object'"),
        ],
    )
    def test_an_answer_that_does_not_fit_is_asked_once_more(self, text: str, problem: str) -> None:
        outcome = _outcome(text, schema=SCHEMA)
        assert problem in _message(outcome, INVALID)
        assert problem in outcome.note

    def test_reasons_are_short(self) -> None:
        assert len(_message(_outcome(json.dumps(["word"] * 10_000), schema=SCHEMA), INVALID)) < 500

    def test_json_that_is_cut_off(self) -> None:
        outcome = _outcome('{"animal": "do', "length", schema=SCHEMA)
        message = _message(outcome, INVALID)
        assert "--max_new_tokens" in message and "20 tokens" in message
        assert "shorter" in outcome.note

    @pytest.mark.parametrize("reference", ["#/$defs/missing", "http://localhost:9/schema.json"])
    def test_a_reference_that_leads_out_of_the_schema_is_not_followed(self, reference: str) -> None:
        with pytest.raises(RunError, match=r"--json_schema.*(missing|localhost)"):
            _outcome("{}", schema={"properties": {}, "$ref": reference})

    def test_references_within_the_schema(self) -> None:
        schema = {"$ref": "#/$defs/animal", "$defs": {"animal": SCHEMA}}
        assert _outcome('{"animal": "dog", "count": 1}', schema=schema).name == "success"
        assert "'count' is a required" in _message(_outcome('{"animal": "dog"}', schema=schema), INVALID)

    def test_other_outcomes_do_not_depend_on_the_schema(self) -> None:
        assert _outcome("", schema=SCHEMA).name == EMPTY
        assert _outcome("", refusal="No.", schema=SCHEMA).name == REFUSED
        assert _outcome("{", "content_filter", schema=SCHEMA).name == BLOCKED
