"""Bounds of bodies and time, and clients that leave."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.serving.messages import Begun, Text
from pipeline.serving.settings import RequestLimits
from tests.serving.http.running import JSON, QUESTION, Hang, Reply, Running, answer, running, wait_until

LIMITS = RequestLimits(body_bytes=200_000, all_body_bytes=300_000)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
STREAMED = QUESTION[:-1] + b', "stream": true}'


@pytest.fixture(scope="module")
def bounded() -> Iterator[Running]:
    with running(LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared: Running) -> Running:
    shared.answering.reset()
    return shared


def _with_length(body: bytes) -> bytes:
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def _read_all(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def _is_alive(server: Running) -> bool:
    return server.ask().status == 200


# Bodies


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(bounded: Running) -> None:
    with bounded.raw(HEAD + b"Content-Length: 999999999999\r\n\r\n") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_client_that_sends_a_body_too_large_receives_the_413(bounded: Running) -> None:
    reply = bounded.chat(b" " * 5_000_000, JSON)
    assert reply.status == 413 and reply.error["code"] == "body_too_large"
    assert "200000" in reply.error["message"]


def test_a_chunked_body_is_counted(bounded: Running) -> None:
    assert bounded.chat(iter([b" " * 50_000] * 5), JSON).status == 413
    assert bounded.chat(iter([QUESTION[:10], QUESTION[10:]]), JSON).status == 200


def test_a_client_that_waits_for_100_continue_gets_the_413_at_once(bounded: Running) -> None:
    with bounded.raw(HEAD + b"Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("length", [b"Content-Length: 50\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_a_body_that_does_not_come(length: bytes) -> None:
    with running(RequestLimits(body_seconds=0.2)) as server:
        with server.raw(HEAD + length) as connection:
            assert connection.recv(65536).startswith(b"HTTP/1.1 408")
        wait_until(lambda: _is_alive(server))


def test_a_body_that_is_cut_off(bounded: Running) -> None:
    before = bounded.metric('captioning_requests_total{outcome="disconnected"}')
    bounded.raw(HEAD + b"Content-Length: 50\r\n\r\n{").close()
    wait_until(lambda: bounded.metric('captioning_requests_total{outcome="disconnected"}') == before + 1)
    assert _is_alive(bounded)


def test_names_of_an_object(server: Running) -> None:
    names = [b'"%d":0' % number for number in range(200_000)]
    reply = server.chat(b"{" + b",".join([*names, names[-1]]) + b"}", JSON)  # quadratic work would take minutes
    assert reply.status == 400 and "'199999' occurs twice" in reply.error["message"]


@pytest.mark.parametrize("text", ["\\ud83d\\ude00", "\U0001f600"])
def test_a_body_with_wide_characters_counts_as_much_as_its_text(bounded: Running, text: str) -> None:
    def body(text: str) -> bytes:
        url = "data:image/png;base64," + "A" * 120_000
        content = f'[{{"type": "image_url", "image_url": "{url}"}}, {{"type": "text", "text": "{text}"}}]'
        return f'{{"messages": [{{"role": "user", "content": {content}}}]}}'.encode()

    assert bounded.chat(body("smile"), JSON).status == 200
    reply = bounded.chat(body(text), JSON)
    assert reply.status == 503 and "300000" in reply.error["message"]
    assert _is_alive(bounded) and bounded.chat(body("smile"), JSON).status == 200


def test_all_bodies_together_are_bounded() -> None:
    with running(RequestLimits(body_bytes=200_000, all_body_bytes=300_000)) as server:
        with server.raw(HEAD + b"Content-Length: 199000\r\n\r\n{") as _:
            body = QUESTION + b" " * 150_000
            wait_until(lambda: server.chat(body, JSON).status == 503)
            reply = server.chat(body, JSON)
            assert int(reply.headers["retry-after"]) > 0 and "300000" in reply.error["message"]
            assert _is_alive(server)
        wait_until(lambda: server.chat(body, JSON).status == 200)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "send application/json"),
        ({"Content-Type": "text/plain"}, "text/plain"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "send application/json"),
        ({**JSON, "Content-Encoding": "gzip"}, "gzip"),
    ],
)
def test_types_of_bodies(server: Running, headers: dict[str, str], words: str) -> None:
    reply = server.chat(QUESTION, headers)
    assert reply.status == 415 and words in reply.error["message"]


def test_a_type_with_a_parameter(server: Running) -> None:
    assert server.chat(QUESTION, {"Content-Type": "Application/JSON; charset=utf-8"}).status == 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"messages": NaN}', b"null"])
def test_malformed_bodies(server: Running, body: bytes) -> None:
    assert server.chat(body, JSON).status == 400
    assert _is_alive(server)


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 100])
def test_what_is_not_http(server: Running, data: bytes) -> None:
    with server.raw(data + b"\r\n\r\n") as connection:
        assert b"400" in connection.recv(65536)[:20]
    assert _is_alive(server)


# Time, and clients that leave


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long(stream: bool) -> None:
    with running(RequestLimits(request_seconds=0.2)) as server:
        server.answering.script = lambda ask: [Hang()]
        reply = server.ask(stream=stream)
        assert reply.status == 504 and reply.error["code"] == "request_timeout"
        assert server.answering.last.cancelled.is_set()


def test_a_stream_that_takes_too_long_ends_with_an_error() -> None:
    with running(RequestLimits(request_seconds=0.2)) as server:
        server.answering.script = lambda ask: [Begun(ask.id, 1), Text(ask.id, 0, "A "), Hang()]
        replies: list[Reply] = []

        def has_begun() -> bool:  # on a busy machine the time may be over before the first message
            replies.append(server.ask(stream=True))
            return replies[-1].status == 200

        wait_until(has_begun)
        assert b"event: error\ndata: " in replies[-1].data and b"[DONE]" not in replies[-1].data
        assert b"request_timeout" in replies[-1].data
        assert server.answering.last.cancelled.wait(30)


@pytest.mark.parametrize("body", [QUESTION, STREAMED])
@pytest.mark.parametrize("steps", [[Hang()], [Begun(0, 1), Text(0, 0, "A "), Hang()]])
def test_a_client_that_leaves_cancels_its_question(server: Running, body: bytes, steps: list[Any]) -> None:
    server.answering.script = lambda ask: steps
    before = server.metric('captioning_requests_total{outcome="disconnected"}')
    connection = server.raw(_with_length(body))
    assert server.answering.asked.acquire(timeout=30)
    question = server.answering.last
    if body == STREAMED and len(steps) > 1:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert not question.cancelled.is_set()
    connection.close()
    assert question.cancelled.wait(30)
    wait_until(lambda: server.metric('captioning_requests_total{outcome="disconnected"}') == before + 1)


def test_a_client_that_leaves_after_a_further_request(server: Running) -> None:
    server.answering.script = lambda ask: [Hang()]
    connection = server.raw(_with_length(QUESTION))
    assert server.answering.asked.acquire(timeout=30)
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    connection.close()
    assert server.answering.last.cancelled.wait(30)


def test_a_client_that_does_not_read_its_stream_loses_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    with running(RequestLimits(request_seconds=0.5)) as server:
        server.answering.script = lambda ask: [Text(ask.id, i * 500_000, "x" * 500_000) for i in range(40)] + [Hang()]
        with server.raw(_with_length(STREAMED)) as connection:
            assert server.answering.asked.acquire(timeout=30)
            assert server.answering.last.cancelled.wait(30)
            outcome = 'captioning_requests_total{outcome="disconnected"}'
            wait_until(lambda: server.metric(outcome) == 1)
            with pytest.raises(ConnectionError):
                _write_until_refused(connection)
    assert not caplog.records  # uvicorn logs an error if a response is given up without the end of its connection


def _write_until_refused(connection: socket.socket) -> None:
    """Write at intervals, which a living connection takes: they are further requests."""
    pause = threading.Event()
    for _ in range(1000):
        connection.sendall(b" ")
        pause.wait(0.03)


def test_a_client_that_does_not_read_its_stream_is_dropped() -> None:
    with running(RequestLimits(request_seconds=0.5)) as server:
        server.answering.script = lambda ask: [Text(ask.id, i * 500_000, "x" * 500_000) for i in range(40)] + [Hang()]
        with server.raw(_with_length(STREAMED)):
            assert server.answering.asked.acquire(timeout=30)
            assert server.answering.last.cancelled.wait(30)
        server.answering.script = lambda ask: answer(ask, "A")
        wait_until(lambda: _is_alive(server))


@pytest.mark.parametrize("steps", [[Hang()], [Text(0, 0, "A"), Hang()]])
def test_heartbeats_keep_the_connection_open_before_and_within_an_answer(steps: list[Any]) -> None:
    with running(heartbeat=0.05) as server:
        server.answering.script = lambda ask: steps
        data = b""
        with server.raw(_with_length(STREAMED)) as connection:
            while data.count(b": heartbeat\n\n") < 3:
                piece = connection.recv(65536)
                assert piece
                data += piece
        assert data.startswith(b"HTTP/1.1 200")
        assert server.answering.last.cancelled.wait(30)


def test_large_data_do_not_stay_reserved(bounded: Running) -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(100_000)).decode()
    assert [bounded.media(url).status for _ in range(8)] == [200] * 8
