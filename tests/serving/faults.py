"""Faulty requests and the site with traps, for the tests of a running server that everything goes wrong with."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from scripts.serving_runs import RunningServer, video_body
from tests.serving import raw_http

CHAT = "/v1/chat/completions"
KEY = "a-secret-of-the-test"
BODY_BYTES = 8 * 2**20
WAIT_SECONDS = 60.0
LONG = {"max_tokens": 3000, "ignore_eos": True}
"""Fields of a request whose answer is so long that it does not end by itself while a test runs."""


@dataclass(frozen=True)
class World:
    """What the tests need.

    clip: a video file, whose caption is `truth`. allowed: a folder that the server may read. outside: one that it may
    not.
    """

    clip: Path
    truth: str
    allowed: Path
    outside: Path


class MediaHandler(http.server.BaseHTTPRequestHandler):
    """A site with clips, some of which are traps."""

    clip = b""
    elsewhere = ""

    def do_GET(self) -> None:
        if self.path == "/redirect.mp4":
            self.send_response(302)
            self.send_header("Location", self.elsewhere)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.clip) + (10**6 if self.path == "/endless.mp4" else 0)))
        self.end_headers()
        self.wfile.write(self.clip)
        if self.path == "/endless.mp4":
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # until the client has had enough

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def site_of(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """A web site on this machine; gives its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        site.daemon_threads = True
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_address[1]
        site.shutdown()


def check_alive(server: RunningServer, world: World, headers: str = "") -> None:
    server.wait_until_healthy()
    until(lambda: busy(server) == 0)
    status, text = raw_http.post(server.url, video_body(world.clip), headers=headers)
    assert status == 200 and json.loads(text)["choices"][0]["message"]["content"] == world.truth, text


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition is not met in time"
        time.sleep(0.05)


def busy(server: RunningServer) -> float:
    metrics = server.metrics()
    return metrics["captioning_requests_running"] + metrics["captioning_requests_waiting"]


def running(server: RunningServer) -> float:
    return server.metrics()["captioning_requests_running"]


def about(url: str, kind: str = "video_url", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind, kind: {"url": url}}]}], **fields}


def said(content: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], **fields}


def png_bomb(side: int) -> bytes:
    """A PNG of black pixels, whose file is a thousandth of its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    data = b"".join(packed.compress(row) for _ in range(side)) + packed.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def endless_gif() -> bytes:
    """An animation that takes far longer to decode than the time limit."""
    file = io.BytesIO()
    Image.new("P", (3000, 3000)).save(file, "GIF")
    data = file.getvalue()
    begin = data.index(b"\x2c", 13)  # the image block; before it are the head and the palette
    return data[:begin] + data[begin:-1] * 300 + b"\x3b"


def as_data(data: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode('ascii')}"
