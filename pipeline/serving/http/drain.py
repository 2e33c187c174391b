"""Reads what a client still sends after the response to it, so that the client receives the response.

A server that closes the connection while the client sends makes the client's system throw away the response. Then a
client would see a broken connection in place of the 413 or the 401 that says why. A client that waits for leave to send
its body has not sent it, and its connection is closed. Knows nothing about the requests.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLOSE = (b"connection", b"close")


class Drain:
    """ASGI middleware. seconds, limit: for how long, and how many bytes are read after the response."""

    def __init__(self, app: ASGIApp, seconds: float, limit: int) -> None:
        self._app = app
        self._seconds = seconds
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _may_have_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        has_ended = has_begun = False

        async def watched_receive() -> Message:
            nonlocal has_ended, has_begun
            message = await receive()
            has_begun = True
            has_ended = has_ended or not message.get("more_body", False)  # also if the client is gone
            return message

        waits_for_us = "expect" in Headers(scope=scope)

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start" and waits_for_us and not has_begun:
                message = {**message, "headers": [*message.get("headers", []), CLOSE]}
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not is_last or has_ended or (waits_for_us and not has_begun):
                await send(message)
                return
            await send({**message, "more_body": True})
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._read_rest(watched_receive), self._seconds)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, watched_receive, watched_send)

    async def _read_rest(self, receive: Receive) -> None:
        size = 0
        while size <= self._limit:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body", False):
                return


def _may_have_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
