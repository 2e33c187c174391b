"""The unchanged `openai` library against the server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator

import openai
import pytest

from pipeline.serving.messages import Ask, Begun, Failed, FinishReason, Problem, Text
from pipeline.serving.questions import QueueFull
from tests.serving.http.running import SECONDS, Running, answer, running

IMAGE = "data:image/png;base64," + base64.b64encode(b"an image").decode()
VIDEO = "data:video/mp4;base64," + base64.b64encode(b"a video").decode()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    server.answering.script = lambda ask: answer(ask, "A red ", "star", " ✓.")
    server.answering.full = None
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=SECONDS) as client:
        yield client


def _messages(*media: str, text: str = "What is it?"):
    parts = [{"type": kind, kind: {"url": url}} for kind, url in zip(media[::2], media[1::2], strict=True)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_a_single_answer(server: Running, client: openai.OpenAI) -> None:
    result = client.chat.completions.create(model="tiny", messages=_messages("image_url", IMAGE), max_tokens=9)
    assert result.object == "chat.completion" and result.model == "tiny" and result.id and result.created > 0
    assert result.choices[0].message.role == "assistant"
    assert result.choices[0].message.content == "A red star ✓."
    assert result.choices[0].finish_reason == "stop"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.total_tokens) == (11, 3, 14)
    question = server.answering.last
    assert question.media == [b"an image"] and question.ask.question == "What is it?"
    assert question.ask.options.max_new_tokens == 9 and not question.ask.streams


def test_a_streamed_answer_equals_the_single_one(client: openai.OpenAI) -> None:
    request = {"model": "tiny", "messages": _messages("video_url", VIDEO)}
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * 4 + ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="tiny", messages=_messages(), stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_an_answer_without_parts_is_streamed_whole(server: Running, client: openai.OpenAI) -> None:
    server.answering.script = lambda ask: [s for s in answer(ask, "All.") if not isinstance(s, Text)]
    chunks = list(client.chat.completions.create(model="tiny", messages=_messages(), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "All."


def test_an_answer_that_was_cut_by_max_tokens(server: Running, client: openai.OpenAI) -> None:
    server.answering.script = lambda ask: answer(ask, "A", reason=FinishReason.LENGTH)
    assert client.chat.completions.create(model="tiny", messages=_messages()).choices[0].finish_reason == "length"


def test_64_at_once(server: Running, client: openai.OpenAI) -> None:
    server.answering.script = lambda ask: answer(ask, ask.question, "!")

    async def all_answers() -> list[str]:
        options = {"base_url": server.url + "/v1", "api_key": "none", "max_retries": 0, "timeout": SECONDS}
        async with openai.AsyncOpenAI(**options) as many:
            calls = [
                many.chat.completions.create(model="tiny", messages=_messages("image_url", IMAGE, text=f"q{i}"))
                for i in range(64)
            ]
            return [result.choices[0].message.content for result in await asyncio.gather(*calls)]

    assert asyncio.run(all_answers()) == [f"q{i}!" for i in range(64)]
    assert len({question.ask.id for question in server.answering.questions}) == len(server.answering.questions)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").created == 1_700_000_000
    with pytest.raises(openai.NotFoundError, match=r"'other'.*'tiny'"):
        client.models.retrieve("other")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("problem", "expected", "code"),
    [
        (Problem.MEDIA, openai.BadRequestError, "invalid_media"),
        (Problem.PROMPT, openai.BadRequestError, "invalid_prompt"),
        (Problem.TOO_LONG, openai.BadRequestError, "context_length_exceeded"),
        (Problem.MODEL, openai.InternalServerError, "model_error"),
        (Problem.DEVICE, openai.InternalServerError, "device_error"),
        (Problem.SHUTDOWN, openai.InternalServerError, "shutting_down"),
    ],
)
def test_failures(
    server: Running, client: openai.OpenAI, problem: Problem, expected: type[openai.APIStatusError], code: str, stream
) -> None:
    server.answering.script = lambda ask: [Failed(ask.id, problem, "image 1: no image")]
    with pytest.raises(expected, match="image 1: no image") as caught:
        client.chat.completions.create(model="tiny", messages=_messages(), stream=stream)
    assert caught.value.code == code
    assert caught.value.status_code == {"model_error": 500, "device_error": 503, "shutting_down": 503}.get(code, 400)
    headers = caught.value.response.headers
    assert ("retry-after" in headers) == (problem is Problem.SHUTDOWN)
    assert (headers.get("x-should-retry") == "false") == (problem in (Problem.MODEL, Problem.DEVICE))


def test_an_error_in_the_middle_of_a_stream_ends_it(server: Running, client: openai.OpenAI) -> None:
    def script(ask: Ask):
        return [Begun(ask.id, 1), Text(ask.id, 0, "A "), Failed(ask.id, Problem.DEVICE, "the device died")]

    server.answering.script = script
    stream = client.chat.completions.create(model="tiny", messages=_messages(), stream=True)
    texts = []
    with pytest.raises(openai.APIError, match="the device died"):
        for chunk in stream:
            texts.append(chunk.choices[0].delta.content)
    assert texts == ["", "A "]


def test_a_full_queue(server: Running, client: openai.OpenAI) -> None:
    server.answering.full = QueueFull("256 questions wait", 17)
    with pytest.raises(openai.InternalServerError, match="256 questions wait") as caught:
        client.chat.completions.create(model="tiny", messages=_messages())
    assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"] == "17"


def test_another_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt", messages=_messages())
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_the_key() -> None:
    with running(api_key="secret") as server:
        options = {"base_url": server.url + "/v1", "max_retries": 0, "timeout": SECONDS}
        with openai.OpenAI(api_key="secret", **options) as client:
            assert client.chat.completions.create(model="tiny", messages=_messages()).choices
        with openai.OpenAI(api_key="secrets", **options) as client, pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model="tiny", messages=_messages())
        assert caught.value.code == "invalid_api_key" and "secret" not in caught.value.message


def test_the_library_does_not_repeat_a_question_that_killed_its_device(server: Running) -> None:
    asked = len(server.answering.questions)
    server.answering.script = lambda ask: [Failed(ask.id, Problem.DEVICE, "the device process died twice")]
    with pytest.raises(openai.InternalServerError), openai.OpenAI(base_url=f"{server.url}/v1", api_key="k") as client:
        client.chat.completions.create(model="tiny", messages=_messages())
    assert len(server.answering.questions) == asked + 1


@pytest.mark.parametrize(
    "message",
    [
        "90 prompt tokens and --max_new_tokens 200 make 290; the model was made for 256: use fewer or smaller frames, "
        "a shorter question, or a lower --max_new_tokens; for a summary, a lower --context_tokens",
        "90 prompt tokens and 200 new tokens make 290; the model was made for 256: use fewer or smaller frames",
    ],
)
def test_a_question_that_is_too_long_is_told_in_words_of_the_protocol(server: Running, message: str) -> None:
    server.answering.script = lambda ask: [Failed(ask.id, Problem.TOO_LONG, message)]
    told = server.ask().error["message"]
    assert "90 prompt tokens" in told and "290" in told and "256" in told and "a lower max_tokens" in told
    assert "--" not in told and "max_new_tokens" not in told and "summary" not in told
