"""HTTP requests that client libraries do not send: without an end, too slow, or not HTTP at all."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

_SECONDS = 60.0


@contextlib.contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    """A TCP connection to a server."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=_SECONDS) as opened:
        yield opened


def head(path: str, length: int | None, headers: str = "", method: str = "POST") -> bytes:
    """The head of a request. length: of its body; None for no such header."""
    announced = "" if length is None else f"Content-Length: {length}\r\n"
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{announced}{headers}\r\n"
    ).encode("ascii")


def received(opened: socket.socket, until: bytes | None = None) -> bytes:
    """All bytes until the server closes the connection, or until these bytes have come."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while (until is None or until not in data) and (part := opened.recv(65536)):
            data += part
    return data


def status_of(answer: bytes) -> int:
    """The status of an HTTP response; 0 if there is none."""
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") else 0


def exchange(url: str, data: bytes, end: bool = True) -> int:
    """Send bytes, and return the status of the answer. end: nothing follows."""
    with connection(url) as opened:
        with contextlib.suppress(ConnectionError):
            opened.sendall(data)
            if end:
                opened.shutdown(socket.SHUT_WR)
        return status_of(received(opened, b"\r\n\r\n"))


def post(url: str, body: Any, path: str = "/v1/chat/completions", headers: str = "") -> tuple[int, str]:
    """Send a body in one piece; returns the status and the text of the answer. body: JSON, or bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8")
    with connection(url) as opened:
        with contextlib.suppress(ConnectionError):
            opened.sendall(head(path, len(data), f"Connection: close\r\n{headers}") + data)
        answer = received(opened)
    return status_of(answer), answer.partition(b"\r\n\r\n")[2].decode("utf-8", errors="replace")
