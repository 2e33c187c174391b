"""What an error of the service or of the network means: try again, a failure of the request, or the end of the run."""

from __future__ import annotations

import asyncio
import logging
import time
from email.utils import formatdate
from typing import Any

import pytest

from pipeline.captioning.captioners.api.errors import BLOCKED, REJECTED, SERVICE, RequestFailed, ServiceStop, TryAgain
from pipeline.captioning.captioners.api.retry_after import duration
from pipeline.captioning.captioners.api.service import Service
from tests.captioning.captioners.api.raw_server import (
    BODY,
    KEY,
    Server,
    complete,
    error,
    reply,
    run,
)


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
def test_states_that_pass(status: int) -> None:
    with pytest.raises(TryAgain, match=f"HTTP {status}: it failed") as caught:
        complete(reply(error(), status, Retry_After="3"))
    assert (caught.value.pauses_all, caught.value.retry_after) == (False, 3)


def test_what_the_service_wants_no_more_is_not_sent_again() -> None:
    with pytest.raises(RequestFailed, match="HTTP 503: it failed") as caught:
        complete(reply(error(), 503, X_Should_Retry="false"))
    assert caught.value.stage == SERVICE


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
    assert time.monotonic() - began < 30


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
