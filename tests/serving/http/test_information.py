"""Errors, paths, keys and sites, health, metrics and the page: what surrounds the answers of the application."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.serving.messages import Ask, Begun, Failed, Problem
from pipeline.serving.questions import Load, QueueFull
from tests.serving.http.running import JSON, QUESTION, Running, running, wait_until


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared: Running) -> Running:
    shared.answering.reset()
    return shared


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


def test_the_http_process_imports_no_framework() -> None:
    modules = "torch", "mindspore", "mindnlp", "transformers", "av", "PIL"
    code = f"import sys, pipeline.serving.http.app; print([m for m in {modules} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
