"""What the endpoints that answer questions have in common: from a checked question to the end of the response.

Each endpoint gives a function that reads the request. Knows no format of a body.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from ..messages import Ask, Begun, Done, Failed, Text
from ..questions import OpenQuestion, QueueFull
from .context import Context
from .errors import ClientGone, RequestError, busy, error_of, internal_error, not_read
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
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_SECONDS = 30
"""`Retry-After` if the disk is full."""
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
        failure: RequestError | None = None
        outcome = "disconnected"
        is_started = is_complete = False

        async def watched_send(message: Message) -> None:
            nonlocal is_started, is_complete
            await send(message)
            is_started = True
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            outcome = await self._answer(Request(scope, receive), figures, watched_send)
        except ClientGone:
            failure = not_read()  # nobody gets it, unless the client reads again after the time was over
        except RequestError as error:
            failure, outcome = error, error.outcome
        except Exception:
            _log.exception("a request failed")
            failure = internal_error()
            outcome = failure.outcome
        finally:
            figures.ended(outcome)
        if failure is not None and not is_complete:
            await _send_error(failure, is_started, scope, receive, send)

    async def _answer(self, request: Request, figures: RequestFigures, send: Send) -> str:
        """Answer a request. Returns the outcome."""
        files = self._context.spool.open()
        try:
            asked = await self._read_request(request, files)
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

    async def _read_request(self, request: Request, files: QuestionFiles) -> Asked:
        try:
            return await self._read(self._context, request, files)
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            folder = self._context.spool.path.parent.parent
            _log.error("a medium can't be written: %s; TMPDIR chooses another folder than %s", error.strerror, folder)
            raise busy("the server has no room for the media; try again later", _FULL_SECONDS) from None

    def _open(self, ask: Ask) -> OpenQuestion:
        try:
            return self._context.answering.ask(ask)
        except QueueFull as error:
            raise busy(str(error), error.retry_after) from None

    async def _stream(self, exchange: Exchange, form: AnswerForm, figures: RequestFigures) -> str:
        """Send the answer as server-sent events.

        The response starts with the first message or heartbeat: an error before it has a status code of its own.
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
    """Send an error. If the client has stopped to read, this lasts until the connection is closed for that."""
    if is_started:
        await send(_body(event_bytes(error.body(), "error"), False))
    else:
        await error.response()(scope, receive, send)


def _body(data: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
