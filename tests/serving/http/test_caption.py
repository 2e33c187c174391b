"""`POST /caption`: forms with files, as curl and browsers send them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.serving.settings import RequestLimits
from tests.serving.http.running import Reply, Running, answer, running, wait_until

PNG = b"\x89PNG\r\n\x1a\n and so on"
MP4 = b"\0\0\0\x18ftypmp42 and so on"
JPEG = b"\xff\xd8\xff and so on"
LIMITS = RequestLimits(images=3, body_bytes=3_000_000, all_media_bytes=2_500_000)
BOUNDARY = "boundary-of-the-form"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(LIMITS) as server:
        yield server


def _form(*files: tuple[str, bytes], field: str = "file", **fields: str) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + data
        for name, data in files
    ]
    for name, text in fields.items():
        parts.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode())
    return b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def _post(server: Running, body: Any) -> Reply:
    return server.send("POST", "/caption", body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})


def test_a_file(server: Running) -> None:
    reply = _post(server, _form(("a ✓ clip.mp4", MP4)))
    assert reply.status == 200
    usage = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}
    expected = {"file": "a ✓ clip.mp4", "caption": "A red star.", "finish_reason": "stop", "usage": usage}
    assert reply.json == expected
    question = server.answering.last
    assert question.media == [MP4] and question.ask.media[0].endswith(".mp4")
    assert question.ask.question == "Describe it." and question.ask.system is None and not question.ask.streams
    wait_until(lambda: not list(server.spool.iterdir()))


def test_fields(server: Running) -> None:
    fields = {"question": "What?", "system": "Be brief.", "max_tokens": "9", "temperature": "0", "num_frames": "2"}
    assert _post(server, _form(("a.mp4", MP4), **fields)).status == 200
    ask = server.answering.last.ask
    assert (ask.question, ask.system, ask.options.max_new_tokens) == ("What?", "Be brief.", 9)
    assert ask.options.temperature == 0 and str(ask.sampling) == "2"
    assert _post(server, _form(("a.mp4", MP4), question="", max_tokens="", system="")).status == 200
    ask = server.answering.last.ask
    assert (ask.question, ask.system, ask.sampling) == ("Describe it.", "", None)


def test_a_stream(server: Running) -> None:
    reply = _post(server, _form(("a.png", PNG), stream="true"))
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[len("data: ") :]) for line in reply.data.decode().splitlines() if line]
    assert events[:2] == [{"text": "A red "}, {"text": "star."}]
    assert events[2]["caption"] == "A red star." and events[2]["file"] == "a.png" and len(events) == 3


def test_several_images(server: Running) -> None:
    reply = _post(server, _form(("a.png", PNG), ("b.jpg", JPEG)))
    assert reply.status == 200 and reply.json["file"] == "a.png, b.jpg"
    assert server.answering.last.media == [PNG, JPEG]


def test_large_files_in_many_pieces_arrive_whole(server: Running) -> None:
    data = os.urandom(1_500_001)
    body = _form(("a.mp4", data))
    for size in (7_001, len(body)):
        assert _post(server, iter([body[i : i + size] for i in range(0, len(body), size)])).status == 200
        assert server.answering.last.media == [data]


def test_a_name_is_no_path(server: Running) -> None:
    for name in ("../../x.png", "/etc/passwd", "a.p/g", "", "." * 300, "a.mp4;rm"):
        assert _post(server, _form((name, PNG))).status == 200
        assert server.answering.last.ask.media[0].startswith(str(server.spool))


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (_form(), 400, "no file"),
        (_form(question="What?"), 400, "no file"),
        (_form(("a.mp4", MP4), field="video"), 400, "use file"),
        (_form(("a.mp4", b"")), 400, "'a.mp4' is empty"),
        (_form(("a.mp4", MP4), ("b.mp4", MP4)), 400, "one video, or images"),
        (_form(("a.png", PNG), ("b.png", MP4)), 400, "one video, or images"),
        (_form(*[("a.png", PNG)] * 4), 400, "at most 3 files"),
        (_form(("a.png", PNG), top_k="5"), 400, "no field 'top_k'"),
        (_form(("a.png", PNG), max_tokens="many"), 400, "max_tokens can't be 'many'"),
        (_form(("a.png", PNG), max_tokens="0"), 400, "max_tokens must be from 1"),
        (_form(("a.png", PNG), temperature="nan"), 400, "temperature must be"),
        (_form(("a.png", PNG), stream="maybe"), 400, "stream can't be 'maybe'"),
        (_form(("a.png", PNG), num_frames="5"), 400, "num_frames must be from 1 to 4"),
        (_form(("a.png", PNG))[:-20], 400, "ends before its last boundary"),
        (_form(("a.png", PNG))[:60], 400, "ends before its last boundary"),
        (b"what is this?", 400, "multipart/form-data"),
        (b"", 400, "multipart/form-data"),
        (b"--" + BOUNDARY.encode() + b"\r\nX: y\r\n\r\nz\r\n--" + BOUNDARY.encode() + b"--\r\n", 400, "no name"),
        (b"--" + BOUNDARY.encode() + b"\r\n" + b"X: y\r\n" * 50 + b"\r\n", 400, "multipart/form-data"),
        (_form(("a.mp4", bytes(3_000_001))), 413, "at most 3000000"),
        (_form(("a.mp4", bytes(2_600_000))), 503, "2500000"),
        (_form(("a.png", PNG), question="x" * (2**20 + 1)), 400, "more than"),
    ],
)
def test_refused_forms(server: Running, body: bytes, status: int, words: str) -> None:
    reply = _post(server, body)
    assert reply.status == status and words in reply.error["message"]
    wait_until(lambda: not list(server.spool.iterdir()))
    assert _post(server, _form(("a.png", PNG))).status == 200


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "multipart/mixed; boundary=x"])
def test_other_types(server: Running, content_type: str) -> None:
    reply = server.send("POST", "/caption", _form(("a.png", PNG)), {"Content-Type": content_type})
    assert reply.status == (400 if content_type == "multipart/form-data" else 415)


def test_a_boundary_that_is_too_long(server: Running) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={'b' * 1000}"}
    assert server.send("POST", "/caption", b"x", headers).status == 400


def test_a_client_that_leaves_during_the_upload(server: Running) -> None:
    body = _form(("a.mp4", MP4 * 1000))
    head = (
        "POST /caption HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    asked = len(server.answering.questions)
    connection = server.raw(head.encode() + body[: len(body) // 2])
    wait_until(lambda: bool(list(server.spool.iterdir())))
    connection.close()
    wait_until(lambda: not list(server.spool.iterdir()))
    assert len(server.answering.questions) == asked


def test_the_answer_is_written_as_it_is(server: Running) -> None:
    server.answering.script = lambda ask: answer(ask, 'a "quote",\n', "✓ <b>")
    try:
        assert _post(server, _form(("a.png", PNG))).json["caption"] == 'a "quote",\n✓ <b>'
    finally:
        server.answering.script = lambda ask: answer(ask, "A red ", "star.")
