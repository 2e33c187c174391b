"""Servers for tests of downloads: a web server that answers as told, and an S3-compatible one (moto)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]
REGION = "us-east-1"


class WebServer(ThreadingHTTPServer):
    """A web server on a free port of this machine.

    answers: what is answered for a path, request by request; the last answer is repeated.
    requests: the paths that were requested, with the query, in order.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[str] = []
        self.headers: list[Any] = []
        self.closing = threading.Event()

    def url(self, path: str, *answers: Answer, user: str = "") -> str:
        """The URL of `path`, for which the server gives these answers."""
        self.answers[path.partition("?")[0]] = list(answers)
        return f"http://{user}127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, *_: object) -> None:
        """A client that ends a connection is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, WebServer)
        server.requests.append(self.path)
        server.headers.append(self.headers)
        answers = server.answers.get(self.path.partition("?")[0], [status(404)])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_: object) -> None:
        """No log."""


def content(data: bytes, announced: int | None = None, status: int = 200) -> Answer:
    """Answer with `data`, then end the connection. announced: the Content-Length if it is not true."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True

    return answer


def chunked(data: bytes, is_cut: bool = False) -> Answer:
    """Answer in chunks, without a length. is_cut: end the connection without the last chunk."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(data), 1000):
            part = data[start : start + 1000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"" if is_cut else b"0\r\n\r\n")
        handler.close_connection = True

    return answer


def stalling(data: bytes, seconds: float = 60.0) -> Answer:
    """Announce one byte more than `data`, send `data`, then nothing for `seconds`, or until the server ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert isinstance(handler.server, WebServer)
        content(data, len(data) + 1)(handler)
        handler.wfile.flush()
        handler.server.closing.wait(seconds)

    return answer


def slow(data: bytes, pause: float) -> Answer:
    """Send one byte after the other, with a pause after each."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        content(b"", len(data))(handler)
        for byte in data:
            handler.wfile.write(bytes([byte]))
            time.sleep(pause)

    return answer


def status(code: int, **headers: str) -> Answer:
    """Answer with a status and a short page. headers: with `_` for `-`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "5")
        handler.end_headers()
        handler.wfile.write(b"sorry")

    return answer


def reset(handler: BaseHTTPRequestHandler) -> None:
    """End the connection without an answer."""
    handler.close_connection = True


@contextmanager
def web_server() -> Iterator[WebServer]:
    with WebServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()


@contextmanager
def s3_server() -> Iterator[Any]:
    """An S3-compatible server with the bucket `clips`. Gives a client of boto3.

    The environment names the server and credentials for it, so that decoding processes find it.
    """
    import boto3
    from moto.server import ThreadedMotoServer

    before = dict(os.environ)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "key-of-tests",
            "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }
        client = boto3.client("s3")
        client.create_bucket(Bucket="clips")
        yield client
    finally:
        server.stop()
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
