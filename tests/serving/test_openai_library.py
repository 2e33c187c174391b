"""The unchanged `openai` library against a running server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from scripts.clip_world import random_clip
from scripts.serving_runs import RunningServer, data_url
from tests.serving.conftest import CLIPS

BRIEF_QUESTION = "Describe the video briefly."

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def client(tiny_server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=tiny_server.base_url, api_key="none", max_retries=0, timeout=120)


def _video(row: dict[str, str], question: str = "") -> list[Any]:
    part: dict[str, Any] = {"type": "video_url", "video_url": {"url": data_url(Path(row["path"]), "video/mp4")}}
    return [part, *([{"type": "text", "text": question}] if question else [])]


def _messages(content: Any) -> Any:
    return [{"role": "user", "content": content}]


def test_a_video_is_captioned_as_by_the_command(client: openai.OpenAI, rows: list[dict[str, str]]) -> None:
    model = client.models.list().data[0].id
    assert model == "pllava-tiny"
    answer = client.chat.completions.create(model=model, messages=_messages(_video(rows[0])))
    assert answer.choices[0].message.content == rows[0]["truth"]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.prompt_tokens > 64 and answer.usage.completion_tokens > 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_question_and_a_limit_are_respected(client: openai.OpenAI, rows: list[dict[str, str]]) -> None:
    terse = random_clip(77, 1).shown.terse_caption()
    asked = _messages(_video(rows[1], BRIEF_QUESTION))
    answer = client.chat.completions.create(model="pllava-tiny", messages=asked)
    assert answer.choices[0].message.content == terse
    cut = client.chat.completions.create(model="pllava-tiny", messages=asked, max_tokens=4)
    assert cut.choices[0].finish_reason == "length" and cut.usage is not None and cut.usage.completion_tokens == 4
    assert terse.startswith(cut.choices[0].message.content or "?")
    word = terse.split()[2]
    stopped = client.chat.completions.create(model="pllava-tiny", messages=asked, stop=word)
    assert stopped.choices[0].message.content == terse.partition(word)[0]
    assert stopped.choices[0].finish_reason == "stop"


def test_a_stream_is_the_same_text(client: openai.OpenAI, rows: list[dict[str, str]]) -> None:
    chunks = list(
        client.chat.completions.create(
            model="pllava-tiny",
            messages=_messages(_video(rows[2])),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == rows[2]["truth"] and len([piece for piece in pieces if piece]) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 5


def test_64_at_once_are_all_right(tiny_server: RunningServer, rows: list[dict[str, str]]) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=tiny_server.base_url, api_key="none", max_retries=0, timeout=300
        ) as client:
            asked = (
                client.chat.completions.create(model="pllava-tiny", messages=_messages(_video(rows[number % CLIPS])))
                for number in range(64)
            )
            return [answer.choices[0].message.content or "" for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [rows[number % CLIPS]["truth"] for number in range(64)]
    metrics = tiny_server.metrics()
    assert metrics["captioning_requests_running"] == metrics["captioning_requests_waiting"] == 0


def test_several_images_are_the_frames_of_one_clip(client: openai.OpenAI, folder: Path) -> None:
    """pllava knows only videos. Frames as PNG lose nothing, so the caption is exact."""
    from PIL import Image

    clip = random_clip(78, 0)
    frames = clip.frames()
    chosen = [frames[int((number + 0.5) * len(frames) / 4)] for number in range(4)]
    content = []
    for number, frame in enumerate(chosen):
        path = folder / f"frame{number}.png"
        Image.fromarray(frame).save(path)
        content.append({"type": "image_url", "image_url": {"url": data_url(path, "image/png")}})
    answer = client.chat.completions.create(model="pllava-tiny", messages=_messages(content))
    assert answer.choices[0].message.content == clip.shown.caption()


def test_errors_are_those_of_the_library(client: openai.OpenAI, rows: list[dict[str, str]]) -> None:
    with pytest.raises(openai.NotFoundError, match="pllava-tiny"):
        client.chat.completions.create(model="gpt-4", messages=_messages("Hello"))
    with pytest.raises(openai.BadRequestError, match="single questions"):
        turns: Any = [*_messages("a"), {"role": "assistant", "content": "b"}, *_messages("c")]
        client.chat.completions.create(model="pllava-tiny", messages=turns)
    with pytest.raises(openai.BadRequestError, match="the file"):
        url = {"url": "data:video/mp4;base64,AAAA"}
        client.chat.completions.create(
            model="pllava-tiny",
            messages=_messages([{"type": "video_url", "video_url": url}]),  # type: ignore[list-item]
        )
    with pytest.raises(openai.BadRequestError, match="n"):
        client.chat.completions.create(model="pllava-tiny", messages=_messages(_video(rows[0])), n=2)
