"""One completion through the library, against a server in the same process that sends any bytes."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, TypeVar

import pytest

from pipeline.captioning.captioners.api.answer import Answer
from pipeline.captioning.captioners.api.errors import BLOCKED, REJECTED, RequestFailed, ServiceStop, TryAgain
from pipeline.captioning.captioners.api.options import VIDEO, Generation, Visuals
from pipeline.captioning.captioners.api.requests import body, clip_content
from pipeline.captioning.captioners.api.retry_after import duration
from pipeline.captioning.captioners.api.service import Service

KEY = "sk-secret-0123456789"
BODY = {"model": "gpt-x", "messages": [{"role": "user", "content": "What is it? ü"}], "max_tokens": 200}
USAGE = {"prompt_tokens": 12, "completion_tokens": 3}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Got:
    """A request as the server sees it."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """Sends the replies one after another, and the last one again and again."""

    replies: list[bytes]
    delay: float = 0.0
    requests: list[Got] = field(default_factory=list)
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append(Got(lines[0].split()[1], headers, json.loads(body) if body else None))
                self.in_flight += 1
                self.most_in_flight = max(self.in_flight, self.most_in_flight)
                await asyncio.sleep(self.delay)
                self.in_flight -= 1
                writer.write(self.replies.pop(0) if len(self.replies) > 1 else self.replies[0])
                await writer.drain()
                if not self.replies[0]:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def reply(body: Any, status: int = 200, **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Reason", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def completion(content: Any = "A dog.", usage: Any = USAGE, **message: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": usage}


def error(message: str = "it failed", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def run(
    server: Server, use: Callable[[Service], Awaitable[_T]], key: str = KEY, timeout: float = 20.0, connections: int = 4
) -> _T:
    async def main() -> _T:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        service = Service(f"http://127.0.0.1:{port}/v1", key, timeout, connections)
        try:
            return await use(service)
        finally:
            await service.close()
            listening.close()

    return asyncio.run(main())


def complete(*replies: bytes, **options: Any) -> Answer:
    return run(Server(list(replies)), lambda service: service.complete(dict(BODY)), **options)


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


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
def test_states_that_pass(status: int) -> None:
    with pytest.raises(TryAgain, match=f"HTTP {status}: it failed") as caught:
        complete(reply(error(), status, Retry_After="3"))
    assert (caught.value.pauses_all, caught.value.retry_after) == (False, 3)


def test_time_limit_is_that_of_the_whole_request() -> None:
    # A byte every 0.1 s is no reason to wait for ever.
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)
        except ConnectionError:
            writer.close()

    server = Server([b""])
    server.serve = drip  # type: ignore[method-assign]
    began = time.monotonic()
    with pytest.raises(TryAgain, match=r"no answer within 0\.5 s"):
        run(server, lambda service: service.complete(dict(BODY)), timeout=0.5)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "sent",
    [
        b"",  # closed without an answer
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"choices',
        b"this is not HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
    ids=["closed", "cut header", "cut body", "no HTTP", "no gzip", "long header"],
)
def test_cut_and_broken_connections(sent: bytes) -> None:
    with pytest.raises(TryAgain, match="no connection"):
        complete(sent, b"")


def test_a_connection_error_says_what_is_below_it() -> None:
    async def main() -> None:
        service = Service("http://127.0.0.1:9/v1", KEY, 5.0, 1)
        try:
            await service.complete(dict(BODY))
        finally:
            await service.close()

    with pytest.raises(TryAgain, match=r"no connection: .*127\.0\.0\.1"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry_After": "7"}, 7.0),
        ({"Retry_After": "0.5"}, 0.5),
        ({"Retry_After": "86400"}, 86400.0),
        ({"Retry_After": "3", "retry_after_ms": "1500"}, 1.5),
        ({"Retry_After": "3", "retry_after_ms": "soon"}, 3.0),
        ({"Retry_After": "-1"}, None),
        ({"Retry_After": "nan"}, None),
        ({"Retry_After": "inf"}, None),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:10 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 10.0),
        ({"Retry_After": "Wed, 21 Oct 2015 07:28:10 GMT"}, None),
        ({"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "20s"}, 20.0),
        ({"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "6m0s"}, 60.0),
        ({"x_ratelimit_remaining_tokens": "5", "x_ratelimit_reset_tokens": "20s"}, None),
        ({"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "never"}, None),
        ({"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "20s", "Retry_After": "2"}, 2.0),
    ],
)
def test_too_many_requests(headers: dict[str, str], expected: float | None) -> None:
    with pytest.raises(TryAgain) as caught:
        complete(reply(error(), 429, **headers))
    assert (caught.value.pauses_all, caught.value.retry_after) == (True, expected)


def test_retry_after_as_a_date_by_our_clock() -> None:
    with pytest.raises(TryAgain) as caught:
        complete(reply(error(), 429, Retry_After=formatdate(time.time() + 100, usegmt=True)))
    assert caught.value.retry_after == pytest.approx(100, abs=3)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("120ms", 0.12), ("1h1m1.5s", 3661.5), ("2", 2.0), ("1d", 86400.0)]
    + [(text, None) for text in ("", "s", "-1s", "1 week", "1s later", "nan")],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    ("status", "body", "named"),
    [
        (401, error("wrong key"), ["does not accept the key", "--api_key_env", "wrong key"]),
        (402, error("no credit"), ["credit", "no credit"]),
        (403, error("not yours"), ["gpt-x", "--model", "not yours"]),
        (404, error("The model `gpt-x` does not exist"), ["does not know model 'gpt-x'", "--model"]),
        (404, {"detail": "Not Found"}, ["--base_url", "Not Found"]),
        (404, b"<html><body>nothing here</body></html>", ["--base_url", "nothing here"]),
        (400, error("Model Not Exist"), ["does not know model 'gpt-x'"]),
        (400, error("Invalid model name passed in model=gpt-x."), ["does not know model 'gpt-x'"]),
        (400, error("gpt-x is not a valid model ID"), ["does not know model 'gpt-x'"]),
        (422, error("Unknown model 'gpt-x'"), ["does not know model 'gpt-x'"]),
        (404, error("No endpoints found that support image input"), ["--model"]),
        (404, b"The requested URL /v1/chat/completions was not found on this server.", ["--base_url"]),
        (400, error("no", code="model_not_found"), ["does not know model 'gpt-x'"]),
        (429, error("pay first", code="insufficient_quota"), ["quota", "pay first"]),
        (429, error("pay first", type="insufficient_quota"), ["quota"]),
        (400, error("limit", code="billing_hard_limit_reached"), ["quota"]),
        (200, error("wrong key", code=401), ["does not accept the key"]),
    ],
)
def test_what_stops_the_run(status: int, body: Any, named: list[str]) -> None:
    with pytest.raises(ServiceStop) as caught:
        complete(reply(body, status))
    assert all(text in str(caught.value) for text in [*named, "http://127.0.0.1:"]), str(caught.value)


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirection_is_not_followed(status: int) -> None:
    with pytest.raises(ServiceStop, match=r"redirects to https://example\.org/v2.*--base_url") as caught:
        complete(reply(b"", status, Location="https://example.org/v2?token=abc"))
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "stage", "named"),
    [
        (400, error("image too large"), REJECTED, "HTTP 400: image too large"),
        (400, {"object": "error", "message": "too long", "code": 400}, REJECTED, "HTTP 400: too long"),
        (400, {"error": "bad image"}, REJECTED, "HTTP 400: bad image"),
        (400, error("the image was not found by the model"), REJECTED, "not found"),
        (400, error("Invalid model input: image could not be decoded"), REJECTED, "decoded"),
        (400, error("Unknown model error while processing image"), REJECTED, "Unknown model error"),
        (400, error("Unknown model error of gpt-x"), REJECTED, "Unknown model error"),
        (422, error("The model response not found"), REJECTED, "response not found"),
        (400, error("The model gpt-x-mini, the fallback, does not exist"), REJECTED, "fallback"),
        (400, error("gpt-x: image not found"), REJECTED, "image not found"),
        (404, error("The image_url https://example.org/1.jpg was not found"), REJECTED, "1.jpg"),
        (413, b"<html>413 Request Entity Too Large</html>", REJECTED, "HTTP 413: 413 Request Entity Too Large"),
        (422, {"detail": [{"loc": ["body", "seed"], "msg": "no int"}]}, REJECTED, "no int"),
        (418, b"", REJECTED, "HTTP 418"),
        (400, error("filtered", code="content_filter"), BLOCKED, "filtered"),
        (400, error("policy", code="content_policy_violation"), BLOCKED, "policy"),
        (400, error("azure", innererror={"code": "ResponsibleAIPolicyViolation"}), BLOCKED, "azure"),
        (403, error("flagged", code=403, metadata={"flagged_input": "…"}), BLOCKED, "flagged"),
    ],
)
def test_requests_that_are_not_accepted(status: int, body: Any, stage: str, named: str) -> None:
    with pytest.raises(RequestFailed) as caught:
        complete(reply(body, status))
    assert caught.value.stage == stage and named in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_messages_are_one_line_and_short_and_have_no_key(status: int) -> None:
    # The second one is how services show a key that they refuse. The message ends within one of the others.
    long = f"first\nsecond {KEY} and sk-s****************6789. " + f"{KEY} " * 100
    with pytest.raises((TryAgain, RequestFailed, ServiceStop)) as caught:
        complete(reply(error(long), status))
    message = str(caught.value)
    assert len(message) <= 500 and "\n" not in message and "first second" in message
    assert "sk-s" not in message and "6789" not in message
    assert caught.value.__cause__ is None, "the errors of the library are not part of tracebacks"


def test_no_key_in_a_body_that_is_not_json() -> None:
    with pytest.raises(TryAgain) as caught:
        complete(reply(("a" * 85 + KEY).encode()))
    assert "sk-s" not in str(caught.value)


def test_no_key_in_logs_and_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    services: list[Service] = []

    async def use(service: Service) -> None:
        services.append(service)
        with pytest.raises(ServiceStop):
            await service.complete(dict(BODY))

    run(Server([reply(error(KEY), 401)]), use)
    assert KEY not in caplog.text + repr(services)


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
