"""A connection that sends no complete head is closed; others are not, however slow their bodies are."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from pipeline.serving import connections
from pipeline.serving.connections import LimitedConnection

DEADLINE = 30.0


class _Impatient(LimitedConnection):
    head_seconds = 0.5
    unread_seconds = 0.5


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def _with_server(
    test: Callable[[int], Awaitable[None]],
    protocol: type[LimitedConnection] = _Impatient,
    app: Callable[[Any, Any, Any], Awaitable[None]] = _app,
    **settings: Any,
) -> None:
    """Run `test` with the port of a server."""

    async def run() -> None:
        config = uvicorn.Config(app, port=0, http=protocol, lifespan="off", log_config=None, **settings)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            await asyncio.wait_for(test(server.servers[0].sockets[0].getsockname()[1]), DEADLINE)
        finally:
            server.should_exit = True
            await serving

    asyncio.run(run())


def test_an_incomplete_head_ends_the_connection() -> None:
    async def test(port: int) -> None:
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert await _rest(reader) == b""
            writer.close()

    _with_server(test)


def test_a_second_head_has_a_limit_too_and_a_body_has_none() -> None:
    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx")
        await asyncio.sleep(2 * _Impatient.head_seconds)
        writer.write(b"y")
        assert (await reader.readuntil(b"xy")).startswith(b"HTTP/1.1 200")
        writer.write(b"POST / HTTP")
        assert await _rest(reader) == b""
        writer.close()

    _with_server(test)


def test_the_rest_of_a_body_after_the_response_has_a_limit_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        assert b"401" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x")
        assert await _rest(reader) == b""
        writer.close()

    _with_server(test, app=app)


def test_a_connection_serves_further_requests_after_the_rest_of_a_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
            assert b"401" in await reader.readuntil(b"\r\n\r\n")
            writer.write(b"x")
        writer.close()

    _with_server(test, LimitedConnection, app=app)


def test_a_client_that_does_not_read_is_closed() -> None:
    ends: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        data = bytes(20_000_000)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        if scope["path"] == "/pieces":
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": data})
        ends.append(scope["path"])

    async def test(port: int) -> None:
        loop = asyncio.get_running_loop()
        for path in ("/pieces", "/whole"):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                connection.setblocking(False)
                while path not in ends:
                    await asyncio.sleep(0.01)
                with pytest.raises(ConnectionError):  # a living connection would take them
                    while True:
                        await loop.sock_sendall(connection, b"x")
                        await asyncio.sleep(0.05)

    _with_server(test, app=app)


@pytest.mark.parametrize("close", ["", "Connection: close\r\n"])
def test_a_client_that_leaves_after_further_requests_is_noticed(close: str) -> None:
    began, left = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        began.set()
        assert (await receive())["type"] == "http.disconnect"
        left.set()

    async def test(port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET / HTTP/1.1\r\nHost: a\r\n{close}\r\n".encode())
        await began.wait()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        assert not left.is_set()
        writer.close()
        await left.wait()

    _with_server(test, app=app)


def test_bytes_that_are_not_http() -> None:
    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"nothing\r\n\r\n")
        head, _, body = (await _rest(reader)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ") and json.loads(body)["error"]["code"] == "invalid_http"
        writer.close()

    _with_server(test)


def test_too_many_connections(monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "_REFUSED", 1)

    async def test(port: int) -> None:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        reader, writer = opened[3]
        assert await _rest(reader) == b""  # closed at once
        opened[2][1].write(request)
        refused = await _rest(opened[2][0])
        assert refused.startswith(b"HTTP/1.1 503 ") and b"retry-after: 5" in refused and b'"queue_full"' in refused
        opened[0][1].write(request)
        assert b" 200 " in await opened[0][0].readline()  # it was there before
        for _, writer in opened:
            writer.close()

    _with_server(test, LimitedConnection, limit_concurrency=2)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """What the server sends until it closes the connection."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""
