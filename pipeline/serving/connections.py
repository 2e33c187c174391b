"""The server's HTTP connections: their number, the time of a head and the time of unread bytes are limited.

Knows no request.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

HEAD_SECONDS = 30.0
"""Time for the complete head of a request, from the connection or from the first byte of a further request; and time
for the rest of the body of a request that was answered before it was received."""
UNREAD_SECONDS = 30.0
"""Time for a client to read, when the bytes for it fill their buffers or are the last ones."""
_REFUSED = 64
"""Connections above uvicorn's `limit_concurrency` whose requests get status 503; others are closed at once."""
_RETRY_SECONDS = 5
_MOST_PIPELINED = 2**16
"""Bytes of further requests that a client may send while a response is being made."""


class LimitedConnection(H11Protocol):
    """uvicorn's protocol for a connection. uvicorn itself has no time limits but for connections without any byte.

    While a response is being made, there is no limit of time but for unread bytes; the application has its own.
    """

    head_seconds = HEAD_SECONDS
    unread_seconds = UNREAD_SECONDS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # uvicorn would refuse the requests of all connections, also of those that were there before.
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._head_timer: asyncio.TimerHandle | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._has_head_begun = False
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        if self._most is not None and len(self.connections) >= self._most:
            if len(self.connections) > self._most + _REFUSED:
                transport.abort()
                return
            self.app = _refuse
        self._start_head_timer()
        self._watch()

    def data_received(self, data: bytes) -> None:
        is_answering = self._is_answering()
        if is_answering and self.conn.their_state is h11.MUST_CLOSE:
            return  # the client said that this is its last request
        if not (is_answering or self._has_head_begun):
            self._has_head_begun = True
            self._start_head_timer()
        super().data_received(data)
        if not self._is_answering():
            if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
                self._has_head_begun = False  # this was the rest of the body of a request that was answered
                self._start_head_timer()
            return
        self._stop_head_timer()
        if self.conn.their_state is h11.DONE and self.conn.trailing_data[0]:
            # A client that leaves is noticed only while its bytes are read, and uvicorn has stopped reading.
            if len(self.conn.trailing_data[0]) > _MOST_PIPELINED:
                self.transport.abort()
            else:
                self.flow.resume_reading()

    def on_response_complete(self) -> None:
        self._has_head_begun = False
        super().on_response_complete()  # starts uvicorn's own timer, which runs until the next byte
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._has_head_begun = True  # no further byte gives it more time
            self._start_head_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, in the form of the other errors."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()  # a response has begun
            return
        body = _error_body(msg, "invalid_request_error", "invalid_http")
        headers = [*_json_headers(body), (b"connection", b"close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _watch(self) -> None:
        """Look at intervals whether the client reads; the transport tells nobody that `close` waits for that."""
        now = self.loop.time()
        if not (self.transport.is_closing() or self.flow.write_paused):
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        elif now - self._unread_since >= self.unread_seconds:
            self.transport.abort()
            return
        self._watch_timer = self.loop.call_later(min(1.0, self.unread_seconds / 4), self._watch)


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    """The application of connections above the limit."""
    logger.warning("more connections than the server takes: a request was refused")
    body = _error_body("the server has too many connections; try again", "server_error", "queue_full")
    headers = [*_json_headers(body), (b"retry-after", b"%d" % _RETRY_SECONDS), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _error_body(message: str, kind: str, code: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def _json_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
