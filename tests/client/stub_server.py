"""A server in a thread for tests of clients: any Starlette app; and a stand-in for the captioning server."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MODEL = "stub"


@contextlib.contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """Serve the app on a free port of the loopback address; gives its URL without a path."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()  # connections wait in the listener until the server takes them
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def completion(text: str, finish_reason: str = "stop") -> JSONResponse:
    """An answer of 100 prompt tokens and a generated token for each word."""
    tokens = len(text.split())
    message = {"role": "assistant", "content": text}
    return JSONResponse(
        {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 100, "completion_tokens": tokens, "total_tokens": 100 + tokens},
        }
    )


def refusal(status: int, message: str, **headers: str) -> JSONResponse:
    """An error in OpenAI's form."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status, headers)


def media(body: dict[str, Any]) -> list[tuple[str, str]]:
    """The media of the user's message: kind (`video_url`, `image_url`) and URL."""
    parts = body["messages"][-1]["content"]
    return [(part["type"], part[part["type"]]["url"]) for part in parts if part["type"] != "text"]


@dataclass
class StubServer:
    """answer: makes the response to the body of a completion. bodies, keys: of the requests so far, in order.

    key: needed for the list of models; empty for none.
    """

    answer: Callable[[dict[str, Any]], Awaitable[Response]]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""
    key: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[StubServer]:
        routes = [Route("/v1/models", self._models), Route("/v1/chat/completions", self._complete, methods=["POST"])]
        with serving(Starlette(routes=routes)) as url:
            self.url = f"{url}/v1"
            yield self

    async def _models(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return refusal(401, "wrong key")
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        self.keys.append(request.headers.get("authorization", ""))
        self.bodies.append(body)
        return await self.answer(body)
