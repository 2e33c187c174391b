"""The HTTP application of the server: its paths, its errors and what surrounds them. Starts no process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..questions import Answering
from ..settings import HttpSettings
from .bodies import ByteBudget
from .caption import read_caption
from .completions import read_completion
from .context import Context
from .drain import Drain
from .endpoint import QuestionEndpoint
from .errors import RequestError, http_exception, internal_error
from .guard import Guard
from .information import Information
from .metrics import Metrics
from .page import page_routes
from .spool import Spool

HEARTBEAT_SECONDS = 15.0
_DRAIN_SECONDS = 5.0


def make_app(settings: HttpSettings, answering: Answering, heartbeat: float = HEARTBEAT_SECONDS) -> Starlette:
    """The application. Media of clients are in a private folder, which is removed when the application shuts down.

    heartbeat: see `Context`.
    """
    limits = settings.limits
    spool = Spool(limits.all_media_bytes)
    bodies = ByteBudget(limits.all_body_bytes, "the bodies")
    context = Context(settings, answering, Metrics(answering.load), spool, bodies, heartbeat)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        spool.close()

    information = Information(context)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", QuestionEndpoint(context, read_completion), methods=["POST"]),
            Route("/caption", QuestionEndpoint(context, read_caption), methods=["POST"]),
            Route("/v1/models", information.models, methods=["GET"]),
            Route("/v1/models/{model:path}", information.model, methods=["GET"]),
            Route("/health", information.health, methods=["GET"]),
            Route("/metrics", information.metrics, methods=["GET"]),
            *page_routes(),
        ],
        middleware=[
            Middleware(Drain, seconds=_DRAIN_SECONDS, limit=limits.body_bytes),
            Middleware(Guard, key=settings.api_key),
        ],
        exception_handlers={
            RequestError: _request_error,
            HTTPException: http_exception,
            Exception: _any_error,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.context = context
    return app


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _any_error(request: Request, error: Exception) -> Response:
    return internal_error().response()  # Starlette raises the error again, and the HTTP server logs it
