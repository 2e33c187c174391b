"""The fields of a chat completion: which are accepted, what they mean, and which are refused by name."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
from typing import Any

import pytest

from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.run.frame_flags import frame_sampling
from pipeline.serving.http.chat import ChatRequest, chat_request
from pipeline.serving.http.errors import RequestError
from pipeline.serving.http.generation import VideoOptions, video_sampling
from pipeline.serving.http.json_body import parse
from pipeline.serving.settings import HttpSettings, RequestLimits
from tests.serving.http.running import MODEL

SETTINGS = HttpSettings(MODEL, RequestLimits(images=3, new_tokens=100))
USER = {"role": "user", "content": "What is it?"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"x").decode()}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}


def _read(settings: HttpSettings = SETTINGS, **fields: Any) -> ChatRequest:
    return chat_request({"messages": [USER], **fields}, settings)


def _refusal(messages: Any = None, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        _read(**({} if messages is None else {"messages": messages}), **fields)
    return caught.value


def _user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


# Messages


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("content", ["Be\nbrief.", [_text("Be"), _text("brief.")]])
def test_a_system_prompt(role: str, content: Any) -> None:
    request = _read(messages=[{"role": role, "content": content}, USER])
    assert request.conversation.system == "Be\nbrief." and request.conversation.question == "What is it?"


def test_without_a_system_message_the_servers_own_applies() -> None:
    assert _read().conversation.system is None
    assert _read(messages=[{"role": "system", "content": ""}, USER]).conversation.system == ""


def test_parts_in_any_order() -> None:
    conversation = _read(messages=_user(_text("one"), IMAGE, _text("two"), IMAGE)).conversation
    assert conversation.question == "one\ntwo" and len(conversation.media) == 2
    assert conversation.media[1].path == "messages[0].content[3].image_url"


def test_a_url_without_an_object_and_a_detail() -> None:
    short = {"type": "image_url", "image_url": "https://a/b.png"}
    detailed = {"type": "image_url", "image_url": {"url": "https://a/c.png", "detail": "low"}}
    media = _read(messages=_user(short, detailed)).conversation.media
    assert [medium.url for medium in media] == ["https://a/b.png", "https://a/c.png"]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "messages must be a list"),
        ("hello", "messages must be a list"),
        ([1], r"messages\[0\] must be an object"),
        ([{"content": "x"}], r"messages\[0\].role is missing"),
        ([{"role": "system", "content": "x"}], "has the role system"),
        ([USER, {"role": "assistant", "content": "x"}, USER], r"messages\[0\] is not the last message"),
        ([{"role": "assistant", "content": "x"}, USER], r"messages\[0\] is an earlier answer"),
        ([USER, USER], "single questions"),
        ([USER, {"role": "system", "content": "x"}], "is not the last"),
        ([{"role": "system", "content": "x"}] * 2 + [USER], r"messages\[1\] has the role system"),
        ([{"role": "system", "content": [IMAGE]}, USER], "takes text alone"),
        ([{"role": "tool", "content": "x"}], "'tool'"),
        ([{"role": "user", "content": ""}], "neither text nor media"),
        ([{"role": "user", "content": []}], "neither text nor media"),
        ([{"role": "user"}], "content must be a string or a list"),
        ([{"role": "user", "content": "x", "tool_calls": [1]}], "tool_calls is not supported"),
        ([{"role": "user", "content": "\ud800"}], "surrogate"),
        (_user({"type": "input_audio"}), "'input_audio'"),
        (_user({"type": "text"}), "text is missing"),
        (_user({"type": "image_url", "image_url": {}}), "url must be a string"),
        (_user({"type": "image_url"}), "image_url must be an object"),
        (_user({**IMAGE, "crop": 1}), "crop is not supported"),
        (_user({"type": "image_url", "image_url": {"url": "x", "crop": 1}}), "image_url.crop is not supported"),
        (_user(VIDEO, VIDEO), "several videos"),
        (_user(IMAGE, VIDEO), "a video and images"),
        (_user(*[IMAGE] * 4), "4 images, and the server takes at most 3"),
        (_user(_text("x" * (2**20 + 1))), "more than 1048576 characters"),
    ],
)
def test_refused_messages(messages: Any, words: str) -> None:
    error = _refusal(messages)
    assert error.status == 400 and error.param and error.param.startswith("messages")
    with pytest.raises(RequestError, match=words):
        raise error


# Tokens


def test_without_fields_the_servers_options_apply() -> None:
    assert _read().options == MODEL.options
    assert not _read().streams and _read().stop == ()


def test_fields_of_generation() -> None:
    fields = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 3, "repetition_penalty": 1.1, "stop": "END"}
    request = _read(**fields, stream=True, stream_options={"include_usage": True})
    assert request.options == GenerationOptions(5, 1, 0.5, True, 0.9, 3, 1.1)
    assert request.stop == ("END",) and request.streams and request.includes_usage


def test_temperature_1_samples_and_0_does_not() -> None:
    assert _read(temperature=1).options.samples
    assert not _read(temperature=0).options.samples
    assert not _read(top_p=0.5).options.samples
    tiny = _read(temperature=1e-7, top_p=1e-6, repetition_penalty=0.01).options
    assert not tiny.samples and tiny.temperature == 0


def test_a_server_that_samples_can_be_asked_for_greedy_decoding() -> None:
    model = dataclasses.replace(MODEL, options=GenerationOptions(temperature=0.7, do_sample=True))
    assert _read(HttpSettings(model)).options.samples
    assert not _read(HttpSettings(model), temperature=0).options.samples


def test_sampling_without_a_seed_differs_from_request_to_request() -> None:
    assert len({_read(temperature=1).options.seed for _ in range(20)}) > 15


def test_max_completion_tokens() -> None:
    assert _read(max_completion_tokens=7).options.max_new_tokens == 7
    assert _read(max_completion_tokens=7, max_tokens=7).options.max_new_tokens == 7
    assert _refusal(max_completion_tokens=7, max_tokens=8).param == "max_tokens"


def test_beam_search_does_not_sample() -> None:
    model = dataclasses.replace(MODEL, options=GenerationOptions(num_beams=3))
    assert _read(HttpSettings(model), temperature=0).options.num_beams == 3
    with pytest.raises(RequestError, match="temperature must be 0"):
        _read(HttpSettings(model), temperature=0.5)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", [0, -1, 101, 1.5, "5", True]),
        ("max_completion_tokens", [0, 101]),
        ("temperature", [-0.1, 2.1, "1", True, 10**400]),
        ("top_p", [0, 1e-7, 1.1, []]),
        ("seed", [-1, 2**63, 0.5]),
        ("repetition_penalty", [0, 1e-3, 2.5]),
        ("stop", [5, [1], ["a"] * 5, "", ["x" * 1001]]),
        ("stream", [1, "true"]),
        ("stream_options", [5, [], {"other": 1}]),
        ("n", [2, 0]),
        ("logprobs", [True]),
        ("top_logprobs", [3]),
        ("presence_penalty", [0.5]),
        ("frequency_penalty", [0.5]),
        ("logit_bias", [{"5": 1}]),
        ("tools", [[{"type": "function"}]]),
        ("tool_choice", ["required"]),
        ("response_format", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {}}]),
        ("top_k", [5]),
        ("min_p", [0.1]),
        ("guided_json", [{}]),
        ("reasoning_effort", ["low"]),
        ("what_is_this", [0]),
        ("model", [5]),
    ],
)
def test_refused_fields_are_named(name: str, values: list[Any]) -> None:
    for value in values:
        error = _refusal(**{name: value})
        assert error.status == 400 and error.param and error.param.startswith(name) and name in str(error), value


def test_neutral_and_harmless_fields_change_nothing() -> None:
    neutral = {
        "n": 1,
        "logprobs": False,
        "presence_penalty": 0.0,
        "tools": [],
        "logit_bias": {},
        "response_format": {"type": "text"},
        "user": "me",
        "metadata": {"a": "b"},
        "store": True,
        "top_k": -1,
        "seed": None,
        "stop": None,
        "reasoning_effort": None,
    }
    assert _read(**neutral) == _read()


# Frames


@pytest.mark.parametrize(
    "sampling",
    [
        FrameSampling("segments", 8),
        FrameSampling("uniform", 8, multiple=2),
        FrameSampling("rate", 0, 2.0, 64, 2),
        FrameSampling("points", 3),
    ],
)
@pytest.mark.parametrize("given", [{"num_frames": 3}, {"fps": 0.5}])
def test_frames_are_sampled_as_by_the_flags(sampling: FrameSampling, given: dict[str, Any]) -> None:
    model = dataclasses.replace(MODEL, sampling=sampling)
    request = _read(HttpSettings(model), media_io_kwargs={"video": given})
    flags = {"num_frames": None, "fps": None, "sampling": None, "max_frames": None, **given}
    if "fps" in given:
        flags["max_frames"] = sampling.most_frames
    assert video_sampling(request.video, model) == frame_sampling(argparse.Namespace(**flags), sampling)


def test_the_sampling_of_a_family_with_a_rate_of_its_own() -> None:
    rate_sampling = FrameSampling("step", 0, 1.0, 110)
    model = dataclasses.replace(MODEL, sampling=FrameSampling("uniform", 64), rate_sampling=rate_sampling)
    assert video_sampling(VideoOptions(None, 2.0), model) == FrameSampling("step", 0, 2.0, 64)


def test_without_video_options_the_servers_sampling_applies() -> None:
    assert video_sampling(_read(media_io_kwargs={"video": {}}).video, MODEL) is None


@pytest.mark.parametrize(
    "video", [{"num_frames": 5}, {"num_frames": 0}, {"num_frames": -1}, {"fps": 0}, {"fps": 1e9}, {"backend": "x"}, 5]
)
def test_refused_video_options(video: Any) -> None:
    error = _refusal(media_io_kwargs={"video": video})
    assert error.param and error.param.startswith("media_io_kwargs.video")


def test_num_frames_and_fps_together() -> None:
    with pytest.raises(RequestError, match="num_frames 2 and fps 1 both set"):
        video_sampling(VideoOptions(2, 1.0), MODEL)


# Bodies


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "JSON"),
        (b"[]", "not an object"),
        (b'"x"', "not an object"),
        (b"\xff\xfe{}", "not UTF-8 at byte 0"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"a": 1}{', "Extra data"),
        (b'{"a": [' + b"[]," * 600_000 + b"0]}", "more than 1048576 values"),
    ],
)
def test_bodies_that_are_not_json(body: bytes, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        parse(body)
    assert caught.value.status == 400 and caught.value.code == "invalid_json"


def test_a_body_with_half_a_character_as_a_name() -> None:
    error = _refusal(**json.loads(r'{"\ud800": 1}'))
    assert error.response().status_code == 400
