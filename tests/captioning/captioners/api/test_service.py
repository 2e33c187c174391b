"""One completion through the library, against a server in the same process that sends any bytes."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import time
from typing import Any

import pytest

from pipeline.captioning.captioners.api.answer import Answer
from pipeline.captioning.captioners.api.errors import RequestFailed, ServiceStop, TryAgain
from pipeline.captioning.captioners.api.options import VIDEO, Generation, Visuals
from pipeline.captioning.captioners.api.requests import body, clip_content
from pipeline.captioning.captioners.api.service import Service
from tests.captioning.captioners.api.raw_server import (
    BODY,
    KEY,
    USAGE,
    Server,
    complete,
    completion,
    error,
    reply,
    run,
)


def test_what_is_sent_and_what_comes_back() -> None:
    server = Server([reply(completion("A dog. ü"))])
    answer = run(server, lambda service: service.complete(dict(BODY)))
    assert answer == Answer("A dog. ü", "stop", "", 12, 3, True)
    (got,) = server.requests
    assert got.path == "/v1/chat/completions"
    assert got.body == BODY
    assert got.headers["authorization"] == f"Bearer {KEY}"
    assert got.headers["content-type"] == "application/json"


def test_nothing_of_the_environment_is_sent_to_another_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ORG_ID", "PROJECT_ID", "ADMIN_KEY", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", "from-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://from-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Custom: from-environment")
    server = Server([reply(completion())])
    run(server, lambda service: service.complete(dict(BODY)), key="")
    assert "from-environment" not in json.dumps(server.requests[0].headers)
    assert os.environ["OPENAI_CUSTOM_HEADERS"] == "X-Custom: from-environment", "the environment is left as it was"


def test_a_large_file_is_encoded_while_it_is_sent() -> None:
    """The event loop does other work meanwhile, and the service gets a body with a length."""
    data = os.urandom(20_000_001)
    content = clip_content("What? ü", [memoryview(data)], Visuals(VIDEO), "video/mp4")
    server = Server([reply(completion())])
    longest = 0.0

    async def use(service: Service) -> Answer:
        nonlocal longest
        request = asyncio.ensure_future(service.complete(body(Generation("gpt-x"), content)))
        while not request.done():
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)
        return await request

    # The server of this test reads in the same loop; so it only keeps what it got.
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert b"transfer-encoding" not in head.lower()
        while sum(map(len, got)) < length:
            got.append(await reader.read(2**16))
        writer.write(server.replies[0])
        await writer.drain()

    got: list[bytes] = []
    server.serve = serve  # type: ignore[method-assign]
    assert run(server, use).text == "A dog."
    sent = json.loads(b"".join(got))
    video, question = sent["messages"][0]["content"]
    prefix, _, encoded = video["video_url"]["url"].partition(",")
    assert prefix == "data:video/mp4;base64" and base64.b64decode(encoded) == data
    assert question["text"] == "What? ü"
    assert longest < 0.02, "encoding all of it takes longer"


def test_organisation_and_project_are_for_openai_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project")

    async def headers(url: str) -> tuple[str | None, str | None]:
        service = Service(url, KEY, 1.0, 1)
        await service.close()
        return service.client.organization, service.client.project

    assert asyncio.run(headers("https://api.openai.com/v1")) == ("org", "project")
    assert asyncio.run(headers("https://example.org/v1")) == (None, None)


def test_all_connections_are_used_and_kept() -> None:
    server = Server([reply(completion())], delay=0.2)

    async def two_rounds(service: Service) -> None:
        for _ in range(2):
            await asyncio.gather(*(service.complete(dict(BODY)) for _ in range(120)))

    run(server, two_rounds, connections=120)
    assert server.most_in_flight == 120
    assert server.connections == 120


@pytest.mark.parametrize(
    ("message", "text", "refusal"),
    [
        ({"content": None}, "", ""),
        ({"content": None, "refusal": "I can't."}, "", "I can't."),
        ({"content": [{"type": "text", "text": "A "}, {"type": "text", "text": "dog."}]}, "A dog.", ""),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, "", "No."),
        ({"content": [{"type": "thinking", "thinking": []}, 7]}, "", ""),
        ({"content": "half of \ud83d"}, "half of \ufffd", ""),
    ],
)
def test_forms_of_content(message: dict[str, Any], text: str, refusal: str) -> None:
    answer = complete(reply({"choices": [{"message": message, "finish_reason": None}], "usage": USAGE}))
    assert (answer.text, answer.refusal, answer.finish_reason) == (text, refusal, "")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "12",
        {},
        {"prompt_tokens": 12},
        {"prompt_tokens": -1, "completion_tokens": 3},
        {"prompt_tokens": "12", "completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": 3},
        {"prompt_tokens": 12.5, "completion_tokens": 3},
        {"prompt_tokens": 12, "completion_tokens": 10_000_001},
        {"prompt_tokens": 0, "completion_tokens": 0},
    ],
)
def test_usage_that_makes_no_sense(usage: Any) -> None:
    answer = complete(reply(completion(usage=usage)))
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens, answer.has_usage) == ("A dog.", 0, 0, False)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b'{"choices": [',
        b"\xff\xfe{",
        b"[" * 100_000,
        [],
        None,
        {},
        {"choices": []},
        {"choices": ["A dog."]},
        {"choices": [{"text": "A dog."}]},
        completion(content=7),
        completion(content={"text": "A dog."}),
    ],
)
def test_bodies_that_are_no_answer_are_asked_again(body: Any) -> None:
    with pytest.raises(TryAgain, match="unusable answer") as caught:
        complete(reply(body))
    assert not caught.value.pauses_all and "\n" not in str(caught.value)


@pytest.mark.parametrize("finish_reason", ["abort", "error", "CANCELLED", "failed"])
def test_an_answer_that_was_broken_off_is_asked_again(finish_reason: str) -> None:
    """A service that stops ends its answers like this. The answer is no caption, and not one of two attempts."""
    value = completion("A dog ru")
    value["choices"][0]["finish_reason"] = finish_reason
    with pytest.raises(TryAgain, match=f"broke off the answer.*{finish_reason}") as caught:
        complete(reply(value))
    assert not caught.value.pauses_all


def test_an_error_with_status_200() -> None:
    with pytest.raises(TryAgain, match="slow down") as caught:
        complete(reply(error("slow down", code=429), Retry_After="7"))
    assert caught.value.pauses_all and caught.value.retry_after == 7
    with pytest.raises(TryAgain, match="upstream failed"):
        complete(reply(error("upstream failed", code="bad_gateway")))


def test_max_completion_tokens_for_the_rest_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    refusal = error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", param="max_tokens")
    server = Server([reply(refusal, 400), reply(completion())])

    async def use(service: Service) -> None:
        for _ in range(3):
            assert (await service.complete(dict(BODY))).text == "A dog."

    run(server, use)
    bodies = [got.body for got in server.requests]
    renamed = {"model": "gpt-x", "messages": BODY["messages"], "max_completion_tokens": 200}
    assert bodies == [BODY, renamed, renamed, renamed]
    assert caplog.text.count("max_completion_tokens") == 1


def test_max_completion_tokens_refused_as_well() -> None:
    refusal = reply(error("neither max_tokens nor max_completion_tokens"), 400)
    server = Server([refusal])
    with pytest.raises(RequestFailed, match="neither"):
        run(server, lambda service: service.complete(dict(BODY)))
    assert len(server.requests) == 2


def test_models() -> None:
    server = Server([reply({"object": "list", "data": [{"id": "a"}, {"id": "b"}]})])
    assert run(server, lambda service: service.models()) == ["a", "b"]
    assert server.requests[0].path == "/v1/models"
    assert run(Server([reply([{"id": "c"}])]), lambda service: service.models()) == ["c"]


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        (reply(error(f"wrong key {KEY}"), 401), "--api_key_env"),
        (reply(b"<html></html>", 404), "HTTP 404"),
        (reply(error(), 503), "HTTP 503"),
        (reply(b"<html></html>"), "not JSON"),
        (reply({"data": {}}), "not a list of models"),
        (b"", "no connection"),
    ],
)
def test_no_list_of_models(sent: bytes, named: str) -> None:
    with pytest.raises(ServiceStop, match=named) as caught:
        run(Server([sent, b""]), lambda service: service.models())
    assert KEY not in str(caught.value) and "http://127.0.0.1:" in str(caught.value)


@pytest.mark.parametrize("key", ["", "x", "EMPTY"])
def test_redaction_with_short_keys(key: str) -> None:
    async def main() -> str:
        service = Service("http://localhost:1/v1", key, 1.0, 1)
        await service.close()
        return service.redacted("some text")

    assert asyncio.run(main()) == "some text"
