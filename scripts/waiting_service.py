"""A service that answers every chat completion after a fixed time, for measurements of those who send requests.

    python -m scripts.waiting_service --latency 2

Prints its base URL, and ends when its standard input is closed. `GET /figures` has the time of every request and answer
since `POST /reset`. Knows nothing about prompts and images: bodies are read and counted, not parsed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

MODEL = "waiting"
_LARGEST_BODY = 64 * 2**20


@dataclass
class Figures:
    """What the service has seen.

    arrivals, answers: times of complete requests and of their answers, in order; seconds of `time.monotonic`.
    body_bytes: sum of all bodies. in_flight, most_in_flight: requests that wait for their answer.
    cancelled: requests whose client did not wait for the answer.
    """

    arrivals: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    body_bytes: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    cancelled: int = 0


class WaitingService:
    """latency: seconds from the end of a request to its answer."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._figures = Figures()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/figures", self._report)
        app.router.add_post("/reset", self._reset)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _complete(self, request: web.Request) -> web.Response:
        body = await request.read()
        figures = self._figures
        figures.arrivals.append(time.monotonic())
        figures.body_bytes += len(body)
        number = len(figures.arrivals)
        figures.in_flight += 1
        figures.most_in_flight = max(figures.most_in_flight, figures.in_flight)
        try:
            await asyncio.sleep(self._latency)
        except asyncio.CancelledError:
            figures.cancelled += 1
            raise
        finally:
            figures.in_flight -= 1
        figures.answers.append(time.monotonic())
        return web.Response(body=_completion(number), content_type="application/json")

    async def _report(self, _: web.Request) -> web.Response:
        return web.json_response(vars(self._figures))

    async def _reset(self, _: web.Request) -> web.Response:
        self._figures = Figures()
        return web.json_response({})


def _completion(number: int) -> bytes:
    """The body of an answer. number: of the request; the caption contains it."""
    usage = {"prompt_tokens": 900, "completion_tokens": 20, "total_tokens": 920}
    message = {"role": "assistant", "content": f"Caption {number}: a shape moves across a plain background."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    completion = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1, "model": MODEL}
    return json.dumps(completion | {"choices": [choice], "usage": usage}).encode()


async def _serve(latency: float) -> None:
    runner = web.AppRunner(WaitingService(latency).app(), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


@dataclass(frozen=True)
class RunningService:
    """A service in a process of its own. base_url: for its clients."""

    base_url: str

    def reset(self) -> None:
        """Forget all requests so far."""
        self._fetch("/reset", b"")

    def figures(self) -> Figures:
        """What the service has seen since the last `reset`."""
        return Figures(**self._fetch("/figures"))

    def _fetch(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        url = self.base_url.removesuffix("/v1") + path
        without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with without_proxy.open(urllib.request.Request(url, body), timeout=60) as reply:
            found: dict[str, Any] = json.load(reply)
            return found


@contextlib.contextmanager
def running(latency: float) -> Iterator[RunningService]:
    """Run a service in a process of its own; its answers take `latency` seconds."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "scripts.waiting_service", "--latency", str(latency)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield RunningService(process.stdout.readline().strip())
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=2.0, help="seconds until an answer (default: %(default)s)")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args().latency))


if __name__ == "__main__":
    main()
