"""A connection that sends no complete head is closed; others are not, however slow their bodies are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from pipeline.serving import connections
from pipeline.serving.connections import LimitedConnection

DEADLINE = 30.0


class _Impatient(LimitedConnection):
    head_seconds = 0.5


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def _with_server(
    test: Callable[[int], Awaitable[None]], protocol: type[LimitedConnection] = _Impatient, **settings: Any
) -> None:
    """Run `test` with the port of a server."""

    async def run() -> None:
        config = uvicorn.Config(_app, port=0, http=protocol, lifespan="off", log_config=None, **settings)
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


def test_too_many_connections(monkeypatch: Any) -> None:
    monkeypatch.setattr(connections, "_REFUSED", 1)

    async def test(port: int) -> None:
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        reader, writer = opened[3]
        assert await _rest(reader) == b""  # closed at once
        opened[2][1].write(request)
        assert b" 503 " in await opened[2][0].readline()
        for _, writer in opened:
            writer.close()

    _with_server(test, LimitedConnection, limit_concurrency=2)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    """What the server sends until it closes the connection."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""
