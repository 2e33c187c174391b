"""Reads the body of a request within bounds of bytes and time. Knows no format.

The bytes of all requests together are bounded, too: a `ByteBudget` gives each request its share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.types import Receive

from ..settings import RequestLimits
from .errors import ClientGone, RequestError, busy

_RETRY_SECONDS = 5


class ByteBudget:
    """A number of bytes that requests share. Used from one event loop. what: names the bytes in messages."""

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._taken = 0

    @property
    def taken(self) -> int:
        return self._taken

    def share(self) -> Share:
        """A share of zero bytes, which can grow."""
        return Share(self)

    def take(self, count: int) -> None:
        """Take bytes.

        Raises:
            RequestError: others have taken too many (503).
        """
        if self._taken + count > self._limit:
            raise busy(
                f"{self._what} of all requests together exceed the server's limit of {self._limit} bytes; try again",
                _RETRY_SECONDS,
            )
        self._taken += count

    def give_back(self, count: int) -> None:
        self._taken -= count


class Share:
    """What one request has taken of a budget. Given back by `release`, or at the end of a `with` block."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size = 0

    def grow(self, count: int) -> None:
        """Take more bytes. Raises: as `ByteBudget.take`."""
        self._budget.take(count)
        self._size += count

    def release(self) -> None:
        self._budget.give_back(self._size)
        self._size = 0

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def check_headers(headers: Headers, content_type: str) -> None:
    """Check what the headers say about the body.

    Raises:
        RequestError: 415: another type than `content_type`, or a compressed body.
    """
    given = headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != content_type:
        message = f"the Content-Type is {given!r}; send {content_type}"
        raise RequestError(message, None, "unsupported_media_type", 415)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        message = f"the Content-Encoding is {encoding!r}; send the body without compression"
        raise RequestError(message, None, "unsupported_media_type", 415)


async def body_pieces(headers: Headers, receive: Receive, limits: RequestLimits, share: Share) -> AsyncIterator[bytes]:
    """The body of a request, in pieces.

    share: grows by the size of the body; before the first piece if the client announced it.

    Raises:
        RequestError: 413: too large. 408: it takes too long. 503: see `ByteBudget.take`.
        ClientGone: the client closed the connection.
    """
    announced = _announced_size(headers)
    if announced > limits.body_bytes:
        raise _too_large(f"{announced} bytes", limits)
    share.grow(announced)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limits.body_seconds
    size = 0
    while True:
        try:
            message = await asyncio.wait_for(receive(), max(0.0, deadline - loop.time()))
        except asyncio.TimeoutError:
            message_ = f"the body was not complete after {limits.body_seconds:g} s; {size} bytes were received"
            raise RequestError(message_, None, "body_timeout", 408) from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        if size + len(piece) > limits.body_bytes:
            raise _too_large(f"more than {limits.body_bytes} bytes", limits)
        share.grow(max(0, size + len(piece) - max(size, announced)))
        size += len(piece)
        if piece:
            yield piece
        if not message.get("more_body", False):
            return


async def read_body(headers: Headers, receive: Receive, limits: RequestLimits, share: Share) -> bytes:
    """The whole body. Arguments and errors: as `body_pieces`."""
    pieces = [piece async for piece in body_pieces(headers, receive, limits, share)]
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _announced_size(headers: Headers) -> int:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _too_large(what: str, limits: RequestLimits) -> RequestError:
    message = f"the body has {what}, and the server takes at most {limits.body_bytes}; send fewer or smaller media"
    return RequestError(message, None, "body_too_large", 413)
