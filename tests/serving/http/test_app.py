"""Bounds of bodies and time, clients that leave, keys, other sites, and what the server tells about itself."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.serving.messages import Ask, Begun, Failed, Problem, Text
from pipeline.serving.questions import Load, QueueFull
from pipeline.serving.settings import RequestLimits
from tests.serving.http.running import Hang, Reply, Running, answer, running, wait_until

LIMITS = RequestLimits(body_bytes=200_000, all_body_bytes=300_000)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
QUESTION = b'{"messages": [{"role": "user", "content": "What is it?"}]}'
STREAMED = QUESTION[:-1] + b', "stream": true}'
JSON = {"Content-Type": "application/json"}


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
    shared.answering.script = lambda ask: answer(ask, "A red ", "star.")
    shared.answering.full = None
    while shared.answering.asked.acquire(blocking=False):
        pass
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


# Errors of the server


def test_an_error_of_our_own_code_is_a_500_without_details(server: Running) -> None:
    def broken(ask: Ask) -> Any:
        raise ValueError("a secret detail")

    server.answering.script = broken
    reply = server.ask()
    assert reply.status == 500 and reply.error["code"] == "internal_error" and b"secret" not in reply.data
    server.answering.script = lambda ask: [Begun(ask.id, 1)]  # ends without its last message
    assert server.ask().status == 500


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/page/nothing.js", 404),
        ("GET", "/page/../app.py", 404),
        ("GET", "/page/%2e%2e/app.py", 404),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/caption", 405),
        ("POST", "/health", 405),
    ],
)
def test_paths_and_methods(server: Running, method: str, path: str, status: int) -> None:
    reply = server.send(method, path)
    assert reply.status == status and reply.error["type"] == "invalid_request_error"


# Keys and other sites


def test_what_needs_the_key() -> None:
    with running(api_key="sésame") as server:
        key = {"Authorization": "Bearer sésame".encode().decode("latin-1")}
        assert server.ask().status == 401
        assert server.ask().headers["www-authenticate"] == "Bearer"
        for path in ("/v1/models", "/metrics", "/nothing"):
            assert server.send("GET", path).status == 401
            assert server.send("GET", path, headers={"Authorization": "Basic abc"}).status == 401
            assert server.send("GET", path, headers={"Authorization": "Bearer \xff"}).status == 401
        assert server.send("GET", "/metrics", headers=key).status == 200
        assert server.send("GET", "/health").status == 200
        assert server.send("GET", "/").status in (200, 404)
        assert server.chat(b" " * 3_000_000, JSON).status == 401  # the client sends all of it, and still reads why
        with_host = {**key, **JSON, "Host": "captions.example.com", "Origin": "https://other.example.com"}
        assert server.chat(QUESTION, with_host).status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.8.9.1:80", "[::1]", "[::1]:8000"])
def test_hosts_without_a_key(server: Running, host: str) -> None:
    assert server.chat(QUESTION, {**JSON, "Host": host}).status == 200
    same = {**JSON, "Host": host, "Origin": f"http://{host.lower()}"}
    assert server.chat(QUESTION, same).status == 200


@pytest.mark.parametrize(
    "host", ["example.com", "localhost.example.com", "127.0.0.1.nip.io", "10.0.0.1", "", "[::1", "@localhost.evil"]
)
def test_names_of_others_are_refused_without_a_key(server: Running, host: str) -> None:
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/"), ("GET", "/metrics")):
        reply = server.send(method, path, headers={"Host": host})
        assert reply.status == 403 and reply.error["code"] == "forbidden_host"


@pytest.mark.parametrize("origin", ["http://evil.example.com", "null", "http://localhost:1", "file://", "localhost"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/caption"])
def test_pages_of_other_sites_are_refused_without_a_key(server: Running, path: str, origin: str) -> None:
    asked = len(server.answering.questions)
    reply = server.send("POST", path, QUESTION, {**JSON, "Origin": origin})
    assert reply.status == 403 and reply.error["code"] == "forbidden_origin"
    assert "access-control-allow-origin" not in reply.headers
    assert len(server.answering.questions) == asked


# Information


def test_health(server: Running) -> None:
    ready = server.answering.state
    try:
        assert (server.send("GET", "/health").status, server.send("GET", "/health").json["status"]) == (200, "ok")
        for devices, is_loaded in ((2, 1), (2, 0), (0, 0)):
            server.answering.state = Load(0, 0, 8, devices, is_loaded, 0)
            reply = server.send("GET", "/health")
            assert reply.status == 503 and reply.json["ready"] == is_loaded
    finally:
        server.answering.state = ready


def test_metrics() -> None:
    with running() as server:
        assert server.send("GET", "/metrics").headers["content-type"].startswith("text/plain")
        gauges = {"requests_running": 1, "requests_waiting": 2, "slots": 8, "devices_ready": 2}
        for name, value in {**gauges, "device_restarts_total": 3}.items():
            assert server.metric(f"captioning_{name}") == value
        server.ask()
        server.ask(stream=True)
        server.chat(b"{", JSON)
        server.answering.script = lambda ask: [Failed(ask.id, Problem.MEDIA, "no image")]
        server.ask()
        server.answering.full = QueueFull("full", 1)
        server.ask()
        outcomes = {"stop": 2, "refused": 1, "media": 1, "queue_full": 1}
        for name, value in outcomes.items():
            series = f'captioning_requests_total{{outcome="{name}"}}'
            wait_until(lambda series=series, value=value: server.metric(series) == value)
        assert server.metric("captioning_prompt_tokens_total") == 22
        assert server.metric("captioning_generation_tokens_total") == 4
        assert server.metric("captioning_request_seconds_count") == 2
        assert server.metric("captioning_time_to_first_token_seconds_count") == 2


def test_the_page_has_a_strict_policy(
    server: Running, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<p>page</p>")
    monkeypatch.setattr("pipeline.serving.http.page.FOLDER", folder)
    reply = server.send("GET", "/")
    assert reply.status == 200 and reply.data == b"<p>page</p>"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "unsafe" not in reply.headers["content-security-policy"]


def test_large_data_do_not_stay_reserved(bounded: Running) -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(100_000)).decode()
    assert [bounded.media(url).status for _ in range(8)] == [200] * 8


def test_the_http_process_imports_no_framework() -> None:
    modules = "torch", "mindspore", "mindnlp", "transformers", "av", "PIL"
    code = f"import sys, pipeline.serving.http.app; print([m for m in {modules} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
