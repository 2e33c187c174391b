"""What the endpoints that answer questions have in common: from a checked question to the end of the response.

Each endpoint gives a function that reads the request. Knows no format of a body.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from ..messages import Ask, Begun, Done, Failed, Text
from ..questions import OpenQuestion, QueueFull
from .context import Context
from .errors import ClientGone, RequestError, busy, error_of, internal_error
from .exchange import Exchange
from .metrics import RequestFigures
from .responses import AnswerForm, event_bytes
from .spool import QuestionFiles

_log = logging.getLogger(__name__)

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_ERROR_SECONDS = 5.0
_HEARTBEAT = b": heartbeat\n\n"


@dataclass(frozen=True)
class Asked:
    """A request that was read. ask.streams says whether the response is a stream."""

    ask: Ask
    form: AnswerForm


Reader = Callable[[Context, Request, QuestionFiles], Awaitable[Asked]]
"""Reads a request. Writes its media to the files. Raises RequestError or ClientGone."""


class QuestionEndpoint:
    """An ASGI application that answers the questions which `read` finds in requests."""

    def __init__(self, context: Context, read: Reader) -> None:
        self._context = context
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        figures = self._context.metrics.request()
        outcome = "disconnected"
        is_started = False

        async def watched_send(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            outcome = await self._answer(Request(scope, receive), figures, watched_send)
        except ClientGone:
            pass
        except RequestError as error:
            outcome = error.outcome
            await _send_error(error, is_started, scope, receive, send)
        except Exception:
            _log.exception("a request failed")
            failure = internal_error()
            outcome = failure.outcome
            await _send_error(failure, is_started, scope, receive, send)
        finally:
            figures.ended(outcome)

    async def _answer(self, request: Request, figures: RequestFigures, send: Send) -> str:
        """Answer a request. Returns the outcome."""
        files = self._context.spool.open()
        try:
            asked = await self._read(self._context, request, files)
            figures.asked()
            question = self._open(asked.ask)
            seconds = self._context.settings.limits.request_seconds
            async with Exchange(question, request.receive, send, seconds) as exchange:
                if asked.ask.streams:
                    return await self._stream(exchange, asked.form, figures)
                done = await _whole_answer(exchange, figures)
                response = JSONResponse(asked.form.whole(done))
                await response(request.scope, request.receive, exchange.send)
                return done.finish_reason.value
        finally:
            files.close()

    def _open(self, ask: Ask) -> OpenQuestion:
        try:
            return self._context.answering.ask(ask)
        except QueueFull as error:
            raise busy(str(error), error.retry_after) from None

    async def _stream(self, exchange: Exchange, form: AnswerForm, figures: RequestFigures) -> str:
        """Send the answer as server-sent events.

        The response starts with the first message: an error before it has a status code of its own.
        """
        answer = await exchange.next(self._context.heartbeat)
        if isinstance(answer, Failed):
            raise error_of(answer)
        await exchange.send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        await exchange.send(_body(b"".join(map(event_bytes, form.first_events()))))
        sent = 0
        while True:
            if answer is None:
                await exchange.send(_body(_HEARTBEAT))
            elif isinstance(answer, Failed):
                raise error_of(answer)
            elif isinstance(answer, (Begun, Text)):
                figures.begun()
                if isinstance(answer, Text) and answer.text:
                    sent += len(answer.text)
                    await exchange.send(_body(event_bytes(form.text_event(answer.text))))
            else:
                figures.begun()
                figures.done(answer)
                rest = [form.text_event(answer.text[sent:])] if len(answer.text) > sent else []
                await exchange.send(_body(b"".join(map(event_bytes, [*rest, *form.last_events(answer)])), False))
                return answer.finish_reason.value
            answer = await exchange.next(self._context.heartbeat)


async def _whole_answer(exchange: Exchange, figures: RequestFigures) -> Done:
    while True:
        answer = await exchange.next(float("inf"))
        if isinstance(answer, Failed):
            raise error_of(answer)
        if answer is not None:
            figures.begun()
        if isinstance(answer, Done):
            figures.done(answer)
            return answer


async def _send_error(error: RequestError, is_started: bool, scope: Scope, receive: Receive, send: Send) -> None:
    if is_started:
        with suppress(asyncio.TimeoutError):  # the client may have stopped to read
            await asyncio.wait_for(send(_body(event_bytes(error.body(), "error"), False)), _ERROR_SECONDS)
    else:
        await error.response()(scope, receive, send)


def _body(data: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
