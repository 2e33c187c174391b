"""An open question whose client may leave: its answers, a time limit, and its end. Knows no form of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any, cast

from starlette.types import Message, Receive, Send

from ..messages import Answer
from ..questions import OpenQuestion
from .errors import ClientGone, RequestError


class Exchange:
    """Use it in an `async with` block; the question is cancelled at the end of the block, if it is open.

    receive: of the connection; the body has been read. send: of the connection. seconds: time until the end of the
        answer.
    """

    def __init__(self, question: OpenQuestion, receive: Receive, send: Send, seconds: float) -> None:
        self._question = question
        self._answers: AsyncIterator[Answer] = question.answers()
        self._send = send
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._gone = asyncio.ensure_future(_disconnect(receive))
        self._next: asyncio.Future[Answer] | None = None

    async def next(self, patience: float) -> Answer | None:
        """The next message about the answer; None if there is none after `patience` seconds.

        Raises:
            ClientGone: the client closed the connection.
            RequestError: the time is over (504).
        """
        if self._next is None:
            self._next = asyncio.ensure_future(_next_of(self._answers))
        left = self._deadline - asyncio.get_running_loop().time()
        if left > 0:
            waiting: set[asyncio.Future[Any]] = {self._next, self._gone}
            await asyncio.wait(waiting, timeout=min(patience, left), return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done():
            raise ClientGone
        if self._next.done():
            answer, self._next = self._next.result(), None
            return answer
        if left <= patience:
            raise RequestError(
                f"there is no complete answer after {self._seconds:g} s; send a smaller question, or try again later",
                None,
                "request_timeout",
                504,
                outcome="timeout",
            )
        return None

    async def send(self, message: Message) -> None:
        """Send a part of the response.

        Raises:
            ClientGone: the client does not read it until the time is over.
        """
        left = self._deadline - asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(self._send(message), max(left, 1.0))
        except asyncio.TimeoutError:
            raise ClientGone from None

    async def __aenter__(self) -> Exchange:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._question.cancel()
        for task in (self._gone, self._next):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
        close = getattr(self._answers, "aclose", None)
        if close is not None:
            with suppress(Exception):
                await cast(Awaitable[None], close())


async def _next_of(answers: AsyncIterator[Answer]) -> Answer:
    async for answer in answers:
        return answer
    raise RuntimeError("the answer ended without its last message")


async def _disconnect(receive: Receive) -> None:
    """Wait until the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
