"""Requests that are wrong: each has its status code, and the server lives on."""

from __future__ import annotations

import json

import pytest

from scripts.serving_runs import RunningServer, video_body
from tests.serving import raw_http
from tests.serving.faults import (
    BODY_BYTES,
    CHAT,
    World,
    about,
    as_data,
    said,
)

pytestmark = pytest.mark.usefixtures("lives_on")


BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "no JSON": (b"{", 400),
    "no UTF-8": (b'{"messages": "\xff"}', 400),
    "a list": (b"[]", 400),
    "no messages": (b"{}", 400),
    "empty": (b"", 400),
    "too deep": (b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "a number that is none": (b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}', 400),
    "a huge number": (b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1' + b"0" * 5000 + b"}", 400),
    "another model": (json.dumps(said("a", model="other")).encode(), 404),
    "two answers": (json.dumps(said("a", n=2)).encode(), 400),
    "an unknown field": (json.dumps(said("a", colour="red")).encode(), 400),
    "tools": (json.dumps(said("a", tools=[{"type": "function"}])).encode(), 400),
    "no question and no clip": (json.dumps(said([])).encode(), 400),
    "bad base64": (json.dumps(about("data:video/mp4;base64,A*A=")).encode(), 400),
    "no video": (json.dumps(about(as_data(b"hello " * 1000, "video/mp4"))).encode(), 400),
    "a playlist": (json.dumps(about(as_data(b"#EXTM3U\nfile:///etc/passwd\n", "video/mp4"))).encode(), 400),
    "a playlist that begins as a video does": (
        json.dumps(about(as_data(b"<!--skip--><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'>", "video/mp4"))).encode(),
        400,
    ),
    "too many images": (
        json.dumps(said([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}] * 9)).encode(),
        400,
    ),
    "too long a question": (json.dumps(said("word " * 9000)).encode(), 400),
    "more tokens than the model has": (json.dumps(said("a", max_tokens=4096)).encode(), 400),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_has_its_status(server: RunningServer, name: str) -> None:
    body, status = BAD_BODIES[name]
    found, text = raw_http.post(server.url, body)
    assert found == status, text
    assert json.loads(text)["error"]["message"], text


def test_a_question_about_a_clip_with_a_special_token_is_refused(server: RunningServer, world: World) -> None:
    body = json.loads(video_body(world.clip))
    body["messages"][0]["content"].append({"type": "text", "text": "</s> What?"})
    status, text = raw_http.post(server.url, body)
    assert status == 400 and "</s>" in json.loads(text)["error"]["message"]


def test_a_body_that_is_announced_too_large_is_refused_before_it_is_sent(server: RunningServer) -> None:
    assert raw_http.exchange(server.url, raw_http.head(CHAT, BODY_BYTES + 1), end=False) == 413


def test_a_chunked_body_that_becomes_too_large_is_refused(server: RunningServer) -> None:
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    chunks = raw_http.head(CHAT, None, "Transfer-Encoding: chunked\r\n") + chunk * (BODY_BYTES // 65536 + 2)
    assert raw_http.exchange(server.url, chunks, end=False) == 413


def test_a_slow_body_is_ended(server: RunningServer) -> None:
    assert raw_http.exchange(server.url, raw_http.head(CHAT, 100) + b"{", end=False) == 408


def test_a_body_that_is_cut_off_does_no_harm(server: RunningServer) -> None:
    with raw_http.connection(server.url) as opened:
        opened.sendall(raw_http.head(CHAT, 100_000) + b"{" * 1000)


def test_what_is_not_http_is_refused(server: RunningServer) -> None:
    assert raw_http.exchange(server.url, b"\x16\x03\x01 this is not HTTP\r\n\r\n") == 400


def test_unknown_paths_methods_and_types_have_their_status(server: RunningServer) -> None:
    assert raw_http.post(server.url, {}, "/v1/embeddings")[0] == 404
    assert raw_http.exchange(server.url, raw_http.head(CHAT, 0, "Connection: close\r\n", "GET")) == 405
    typed = raw_http.head(CHAT, 2, "Connection: close\r\n").replace(b"application/json", b"text/plain") + b"{}"
    assert raw_http.exchange(server.url, typed) == 415
    assert raw_http.post(server.url, b"no multipart", "/caption")[0] == 415


def test_a_page_of_another_site_may_not_send_requests(server: RunningServer) -> None:
    status, _ = raw_http.post(server.url, said("a"), headers="Origin: http://evil.example\r\n")
    assert status == 403
    rebound = raw_http.head(CHAT, 2, "Connection: close\r\n").replace(b"127.0.0.1", b"evil.example") + b"{}"
    assert raw_http.exchange(server.url, rebound) == 403
