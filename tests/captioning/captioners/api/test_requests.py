"""Keys and bodies of requests."""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest

from pipeline.captioning.captioners.api.options import VIDEO, Generation, Visuals
from pipeline.captioning.captioners.api.requests import (
    LARGE_BYTES,
    LargeFile,
    body,
    clip_content,
    json_parts,
    request_key,
    video_fields,
    whole,
)

GENERATION = Generation("some-model")
IDENTITY = {"file": "1234 abcd", "frames": {"num_frames": 3, "fps": None}}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": ["integer", "null"]}},
    "required": ["age", "name"],
    "additionalProperties": False,
}


class TestKey:
    def test_a_key_never_changes(self) -> None:
        """Users would pay again for all answers that they have."""
        generation = Generation("m", "s", 100, 0.5, 0.9, 7, {"type": "string"}, {"top_k": 5})
        assert request_key(IDENTITY, "What happens?", generation) == "6959c24a411b619ae2829d7f7bd4af33b7464109"
        assert request_key({}, "Was passiert? 🏠", GENERATION) == "1c418ef656cd8dd7832cec1eea00a8a4d4dae714"

    @pytest.mark.parametrize(
        "change",
        [
            {"model": "another"},
            {"system": "Be brief."},
            {"max_new_tokens": 201},
            {"temperature": None},
            {"temperature": 0.7},
            {"top_p": 0.9},
            {"seed": 0},
            {"schema": {"type": "object"}},
            {"extra_body": {"top_k": 5}},
        ],
    )
    def test_every_setting_of_the_generation_changes_it(self, change: dict[str, Any]) -> None:
        changed = dataclasses.replace(GENERATION, **change)
        assert request_key(IDENTITY, "What?", changed) != request_key(IDENTITY, "What?", GENERATION)

    def test_all_settings_are_tested_above(self) -> None:
        assert {field.name for field in dataclasses.fields(Generation)} == {
            *("model", "system", "max_new_tokens", "temperature", "top_p", "seed", "schema", "extra_body")
        }

    def test_question_and_clip_change_it(self) -> None:
        keys = {
            request_key(IDENTITY, "What?", GENERATION),
            request_key(IDENTITY, "Who?", GENERATION),
            request_key({}, "What?", GENERATION),
            request_key({**IDENTITY, "file": "1234 abce"}, "What?", GENERATION),
        }
        assert len(keys) == 4

    def test_what_does_not_matter_does_not_change_it(self) -> None:
        reordered = {"frames": {"fps": None, "num_frames": 3}, "file": "1234 abcd"}
        key = request_key(IDENTITY, "What?", GENERATION)
        assert request_key(reordered, "What?", GENERATION) == key
        assert request_key(IDENTITY, "What?", dataclasses.replace(GENERATION, temperature=0, system="")) == key
        replaced = dataclasses.replace(GENERATION, extra_body={"temperature": 0.0})
        assert request_key(IDENTITY, "What?", replaced) == key, "extra_body has the same value"

    def test_it_is_short_enough_for_a_custom_id(self) -> None:
        key = request_key(IDENTITY, "What?" * 1000, GENERATION)
        assert len(key) == 40 and int(key, 16)


class TestBody:
    def test_the_smallest_one(self) -> None:
        assert body(Generation("m", temperature=None), "What?") == {
            "model": "m",
            "max_tokens": 200,
            "messages": [{"role": "user", "content": "What?"}],
        }

    def test_all_settings(self) -> None:
        generation = Generation("m", "Be brief.", 50, 0.5, 0.9, 7)
        answer = {"role": "assistant", "content": ""}
        assert body(generation, "What?", [answer]) == {
            "model": "m",
            "max_tokens": 50,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 7,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}, answer],
        }

    def test_an_empty_system_prompt_is_not_sent(self) -> None:
        assert [message["role"] for message in body(Generation("m", ""), "What?")["messages"]] == ["user"]

    def test_extra_fields_are_at_the_top_level_and_replace_others(self) -> None:
        extra = {"chat_template_kwargs": {"enable_thinking": False}, "temperature": 1.5}
        made = body(Generation("m", extra_body=extra), "What?")
        assert made["chat_template_kwargs"] == {"enable_thinking": False}
        assert made["temperature"] == 1.5
        assert "extra_body" not in made

    def test_a_limit_of_ones_own_replaces_max_tokens(self) -> None:
        made = body(Generation("m", extra_body={"max_completion_tokens": 900}), "What?")
        assert made["max_completion_tokens"] == 900 and "max_tokens" not in made

    @pytest.mark.parametrize(
        ("schema", "strict"),
        [
            (PERSON, True),
            ({**PERSON, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A person"}, True),
            ({"type": "object", "properties": {}, "required": [], "additionalProperties": False}, True),
            ({**PERSON, "required": ["name"]}, False),
            ({key: value for key, value in PERSON.items() if key != "additionalProperties"}, False),
            ({**PERSON, "properties": {"name": {"type": "string", "minLength": 2}, "age": {}}}, False),
            ({**PERSON, "properties": {"name": {"type": "object"}, "age": {}}}, False),
            ({**PERSON, "properties": {"name": {"type": "array", "items": {"type": "object"}}, "age": {}}}, False),
            ({**PERSON, "$defs": {"a": {"allOf": [{"type": "string"}]}}}, False),
            ({"type": "array", "items": PERSON}, False),
            ({}, False),
        ],
    )
    def test_strict_is_asked_for_only_where_services_accept_it(self, schema: dict[str, Any], strict: bool) -> None:
        response_format = body(Generation("m", schema=schema), "Who?")["response_format"]
        assert response_format == {
            "type": "json_schema",
            "json_schema": {"name": "caption", "schema": schema, "strict": strict},
        }


class TestContent:
    def test_frames_come_before_the_question(self) -> None:
        frames = [b"\xff\xd8first", b"\xff\xd8second"]
        content = clip_content("What?", frames, Visuals())
        assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
        assert content[-1]["text"] == "What?"
        for frame, part in zip(frames, content[:-1], strict=True):
            assert set(part["image_url"]) == {"url"}
            start, _, data = part["image_url"]["url"].partition(",")
            assert start == "data:image/jpeg;base64" and base64.b64decode(data) == frame

    def test_detail_is_sent_with_every_frame(self) -> None:
        content = clip_content("What?", [b"1", b"2"], Visuals(detail="low"))
        assert [part["image_url"]["detail"] for part in content[:-1]] == ["low", "low"]

    def test_a_video_file(self) -> None:
        content = clip_content("What?", [b"file"], Visuals(VIDEO, detail="low"), "video/mp4")
        url = "data:video/mp4;base64," + base64.b64encode(b"file").decode()
        assert content == [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "What?"}]

    def test_the_sampling_of_a_video_file(self) -> None:
        expected = {"media_io_kwargs": {"video": {"fps": 1.0}}}
        assert video_fields(Visuals(VIDEO, video_options={"fps": 1.0})) == expected
        assert video_fields(Visuals(VIDEO)) == {}
        assert video_fields(Visuals(video_options={"fps": 1.0})) == {}, "frames are sent as images"

    @pytest.mark.parametrize("mime_type", ["", "video/mp4"])
    @pytest.mark.parametrize("size", [LARGE_BYTES, LARGE_BYTES + 1, LARGE_BYTES + 2, LARGE_BYTES + 3])
    def test_large_clips_are_the_same_on_the_wire(self, mime_type: str, size: int) -> None:
        """Whether they are encoded at once, piece by piece, or for a request file."""
        files = [bytes(range(256)) * (size // 256) + b"end"[: size % 256]]
        files += [] if mime_type else [b"small"]
        content = clip_content("What? ü", files, Visuals(detail="" if mime_type else "low"), mime_type)
        name = "video_url" if mime_type else "image_url"
        assert isinstance(content[0][name]["url"], LargeFile) == (sum(map(len, files)) > LARGE_BYTES)
        made = body(GENERATION, content)
        parts = json_parts(made)
        pieces = [b"".join(part.pieces()) if isinstance(part, LargeFile) else part for part in parts]
        assert list(map(len, parts)) == list(map(len, pieces))
        sent = json.loads(b"".join(pieces))
        assert sent == json.loads(json.dumps(body(GENERATION, whole(content))))
        urls = [part[name]["url"] for part in sent["messages"][0]["content"][:-1]]
        assert [base64.b64decode(url.partition(",")[2]) for url in urls] == files

    def test_a_body_is_json(self) -> None:
        content = clip_content("Was? 🏠", [b"1"], Visuals())
        made = body(Generation("m", schema=PERSON), content)
        assert json.loads(json.dumps(made)) == made
