"""Serves the page of the server, the files of the folder `page`. Knows nothing of what the page does."""

from __future__ import annotations

from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from .errors import RequestError

FOLDER = Path(__file__).parent / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[BaseRoute]:
    """`GET /` and the files that the page loads, below `/page/`."""
    files = [Mount("/page", _PageFiles(directory=FOLDER))] if FOLDER.is_dir() else []
    return [Route("/", _index, methods=["GET"]), *files]


async def _index(request: Request) -> Response:
    file = FOLDER / "index.html"
    if not file.is_file():
        raise RequestError("this server has no page", None, "not_found", 404)
    return FileResponse(file, headers=_HEADERS)


class _PageFiles(StaticFiles):
    """The files of the folder, with the headers of the page."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await super().__call__(scope, receive, send_with_headers)
