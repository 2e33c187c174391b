"""A service that speaks OpenAI's protocol, and misbehaves as it is told; a process of its own.

    python -m tests.fake_service --port 0 --config '{"transient": {"500": 0.1}}' --log requests.jsonl

It prints its URL. Its captions state which images it was shown and what it was asked, so that a swapped or invented
caption is found. What goes wrong is decided by `service_faults.Faults`, whose fields are those of `--config`.

Each request for a completion becomes one line of the log, which is written before the answer: `id`, `time` of its
arrival (seconds since the epoch), `key` and `attempt` of the question, `sighting` (how often it was asked before),
`max_tokens` as it was sent, `status`, and for answers `usage` and tokens. Statuses: `answered`; a fault; `gone`: the
client left before the answer; `key` and `quota`: refused. If an answer could not be delivered, a line `{"undelivered":
id}` follows. The log never contains an API key.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import functools
import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from scripts.coded_clips import read_code
from tests.service_faults import REFUSAL, Faults, Question, answer_text, caption_of, image_text, usage_of

_LIMIT_HEADERS = {
    "x-ratelimit-limit-requests": "-1",
    "x-ratelimit-remaining-requests": "0",
    "x-ratelimit-remaining-tokens": "NaN",
    "x-ratelimit-reset-requests": "6m0s",
    "x-ratelimit-reset-tokens": "tomorrow",
}
_MAX_BODY = 1 << 29


class FakeService:
    """The state of the service. log: file that gets a line for each request; None for none."""

    def __init__(self, faults: Faults, log: Path | None) -> None:
        self._faults = faults
        self._log = None if log is None else log.open("a", encoding="utf-8", buffering=1)
        self._requests = self._in_flight = self._max_in_flight = self._model_lists = 0
        self._seen: Counter[tuple[str, int]] = Counter()
        self._statuses: Counter[str] = Counter()
        self._answered_of_key: Counter[str] = Counter()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_get("/stats", self._stats)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        refusal = self._refused(_key_of(request))
        if refusal is not None:
            return refusal[1]
        return web.json_response(
            {"object": "list", "data": [{"id": m, "object": "model"} for m in self._faults.models]}
        )

    async def _stats(self, request: web.Request) -> web.Response:
        figures = {"requests": self._requests, "in_flight": self._in_flight, "max_in_flight": self._max_in_flight}
        return web.json_response({**figures, "model_lists": self._model_lists, "statuses": dict(self._statuses)})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        self._requests += 1
        number, arrived = self._requests, time.time()
        self._in_flight += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        record: dict[str, Any] = {"id": f"{os.getpid()}-{number}", "time": arrived}
        try:
            return await self._answer(request, number, record)
        except asyncio.CancelledError:
            if "status" not in record:
                self._note(record, "gone")
            raise
        finally:
            self._in_flight -= 1

    async def _answer(self, request: web.Request, number: int, record: dict[str, Any]) -> web.StreamResponse:
        api_key, faults = _key_of(request), self._faults
        body = await request.json()
        question = question_of(body)
        sighting = self._seen[question.key, question.attempt]
        record |= {"key": question.key, "attempt": question.attempt, "sighting": sighting}
        record["max_tokens"] = body.get("max_tokens")
        refusal = self._refused(api_key)
        if refusal is not None:
            self._note(record, refusal[0])
            return refusal[1]
        if body.get("model") not in faults.models:
            self._note(record, "model")
            return self._error(404, f"The model {body.get('model')} does not exist", "model_not_found", api_key)
        self._seen[question.key, question.attempt] += 1
        fault = faults.transient_fault(question, sighting, number)
        if fault and not fault.startswith(("cut_body", "invalid_json", "html", "no_choices")):
            self._note(record, fault)
            return await self._fail(request, fault, api_key)
        kind = faults.answer(question)
        if not fault and kind in ("bad_request", "filter_400"):
            self._note(record, kind)
            if kind == "filter_400":
                return self._error(400, "The prompt was filtered", "content_filter", api_key)
            return self._error(400, "The image can't be processed", "invalid_image", api_key)
        if not fault:
            self._answered_of_key[api_key] += 1  # before the wait, so that no request in flight exceeds the quota
        await asyncio.sleep(faults.seconds(question, sighting))
        completion = self._completion(body, question, kind)
        if fault:
            self._note(record, fault)
            return await _spoiled(request, fault, completion)
        usage = completion.get("usage")
        tokens = usage if usage and not faults.usage_kind(question) else {}
        record |= {"kind": kind, "has_usage": bool(tokens)}
        record |= {name: tokens.get(name, 0) for name in ("prompt_tokens", "completion_tokens")}
        self._note(record, "answered")
        return await self._deliver(request, completion, record)

    def _refused(self, api_key: str) -> tuple[str, web.Response] | None:
        """The status for the log, and the answer to a request with a key that does not work, or has no quota left."""
        answered = self._answered_of_key[api_key]
        if answered >= self._faults.key_stops_after.get(api_key, answered + 1):
            return "key", self._error(401, "Incorrect API key provided", "invalid_api_key", api_key)
        if answered >= self._faults.quota_after.get(api_key, answered + 1):
            return "quota", self._error(429, "You exceeded your current quota", "insufficient_quota", api_key)
        return None

    def _completion(self, body: Mapping[str, Any], question: Question, kind: str) -> dict[str, Any]:
        text = answer_text(kind, question.caption, "response_format" in body)
        if self._faults.words is not None:
            text = " ".join(text.split()[: self._faults.words])
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if kind.startswith("refusal"):
            message = {"role": "assistant", "content": None, "refusal": REFUSAL}
        reason = {"length": "length", "filter": "content_filter"}.get(kind, "stop")
        usage = usage_of(self._faults.usage_kind(question), self._faults.tokens_of(question, text))
        return {
            "id": f"chatcmpl-{question.key}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
            **usage,
        }

    async def _fail(self, request: web.Request, fault: str, api_key: str) -> web.StreamResponse:
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "cut_before":
            return _cut(request, web.Response())
        headers = {}
        if fault == "429_seconds":
            headers["Retry-After"] = f"{self._faults.retry_after:g}"
        if fault == "429_date":  # a date has no fractions of a second: the next full one after the pause
            headers["Retry-After"] = formatdate(int(time.time() + self._faults.retry_after) + 1, usegmt=True)
        return self._error(int(fault[:3]), f"Sorry: {fault}", "", api_key, headers)

    def _error(
        self, status: int, message: str, code: str, api_key: str, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        if self._faults.echoes_key:
            message += f" (key {api_key})"
        error = {"message": message, "type": code or "server_error", "code": code or None, "param": None}
        return web.json_response({"error": error}, status=status, headers=headers)

    async def _deliver(
        self, request: web.Request, completion: Mapping[str, Any], record: Mapping[str, Any]
    ) -> web.StreamResponse:
        response = web.json_response(completion, headers=_LIMIT_HEADERS if self._faults.limit_headers else None)
        try:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError
            await response.prepare(request)
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            self._statuses["undelivered"] += 1
            self._write({"undelivered": record["id"]})
            raise
        return response

    def _note(self, record: dict[str, Any], status: str) -> None:
        record["status"] = status
        self._statuses[status] += 1
        self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write(json.dumps(record) + "\n")


def question_of(body: Mapping[str, Any]) -> Question:
    """What the body of a request asks. Frames count in the order in which they are sent."""
    messages = body["messages"]
    system = " ".join(message["content"] for message in messages if message["role"] == "system")
    first = next(number for number, message in enumerate(messages) if message["role"] == "user")
    content = messages[first]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = " ".join(part["text"] for part in parts if part["type"] == "text")
    shown = []
    for part in parts:
        if part["type"] == "image_url":
            shown.append(_described_image(part["image_url"]["url"]))
        elif part["type"] == "video_url":
            options = json.dumps(body.get("media_io_kwargs", {}).get("video", {}), sort_keys=True)
            shown.append(f"video {_digest(part['video_url']['url'])} {options}")
    return Question(text, len(shown), caption_of(shown, text, system), int(len(messages) > first + 1))


@functools.lru_cache(4096)
def _described_image(url: str) -> str:
    with Image.open(io.BytesIO(_data(url))) as image:
        return image_text(image.size, read_code(image))


def _digest(url: str) -> str:
    return hashlib.sha256(_data(url)).hexdigest()[:8]


def _data(url: str) -> bytes:
    assert url.startswith("data:"), "this service fetches nothing"
    return base64.b64decode(url.partition(",")[2], validate=True)


def _key_of(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


async def _spoiled(request: web.Request, fault: str, completion: Mapping[str, Any]) -> web.StreamResponse:
    """An answer with status 200 that can't be read."""
    text = json.dumps(completion)
    if fault == "html":
        return web.Response(text="<html>upstream is busy</html>", content_type="text/html")
    if fault == "no_choices":
        return web.json_response({**completion, "choices": None})
    if fault == "invalid_json":
        return web.Response(text=text[: len(text) // 2], content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(text))})
    await response.prepare(request)
    await response.write(text[: len(text) // 2].encode())
    return _cut(request, response)


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """End the connection; what was written before still arrives."""
    if request.transport is not None:
        request.transport.close()
    return response


async def _serve(service: FakeService, port: int, parent: int) -> None:
    """Serve until the process is ended, or `parent` is not the parent of this process any more (0 for no matter)."""
    runner = web.AppRunner(service.app(), handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    while not parent or os.getppid() == parent:
        await asyncio.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 for a free port")
    parser.add_argument("--config", default="{}", help="JSON object with fields of service_faults.Faults")
    parser.add_argument("--latency", type=float, help="seconds until an answer; replaces that of --config")
    parser.add_argument("--log", type=Path, help="file that gets a line for each request")
    parser.add_argument("--parent", type=int, default=0, help="end when this process is not the parent any more")
    flags = parser.parse_args()
    faults = Faults(**json.loads(flags.config))
    if flags.latency is not None:
        faults = dataclasses.replace(faults, latency=flags.latency)
    asyncio.run(_serve(FakeService(faults, flags.log), flags.port, flags.parent))


if __name__ == "__main__":
    main()
