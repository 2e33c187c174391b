"""A server that sends given bytes and keeps what it got, for tests of `Service`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.captioning.captioners.api.answer import Answer
from pipeline.captioning.captioners.api.service import Service

KEY = "sk-secret-0123456789"
BODY = {"model": "gpt-x", "messages": [{"role": "user", "content": "What is it? ü"}], "max_tokens": 200}
USAGE = {"prompt_tokens": 12, "completion_tokens": 3}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Got:
    """A request as the server sees it."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """Sends the replies one after another, and the last one again and again."""

    replies: list[bytes]
    delay: float = 0.0
    requests: list[Got] = field(default_factory=list)
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append(Got(lines[0].split()[1], headers, json.loads(body) if body else None))
                self.in_flight += 1
                self.most_in_flight = max(self.in_flight, self.most_in_flight)
                await asyncio.sleep(self.delay)
                self.in_flight -= 1
                writer.write(self.replies.pop(0) if len(self.replies) > 1 else self.replies[0])
                await writer.drain()
                if not self.replies[0]:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def reply(body: Any, status: int = 200, **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Reason", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def completion(content: Any = "A dog.", usage: Any = USAGE, **message: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": usage}


def error(message: str = "it failed", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


def run(
    server: Server, use: Callable[[Service], Awaitable[_T]], key: str = KEY, timeout: float = 20.0, connections: int = 4
) -> _T:
    async def main() -> _T:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        service = Service(f"http://127.0.0.1:{port}/v1", key, timeout, connections)
        try:
            return await use(service)
        finally:
            await service.close()
            listening.close()

    return asyncio.run(main())


def complete(*replies: bytes, **options: Any) -> Answer:
    return run(Server(list(replies)), lambda service: service.complete(dict(BODY)), **options)
