"""The HTTP application under uvicorn in a thread, in front of scripted answers. No model, no process."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.serving.connections import LimitedConnection
from pipeline.serving.http.app import make_app
from pipeline.serving.messages import Answer, Ask, Begun, Done, FinishReason, Text
from pipeline.serving.questions import Load, QueueFull
from pipeline.serving.settings import HttpSettings, MediaAccess, RequestLimits, ServedModel

MODEL = ServedModel("tiny", "Describe it.", GenerationOptions(seed=7), FrameSampling("segments", 4), 1_700_000_000)
SECONDS = 30.0


class Connection(LimitedConnection):
    unread_seconds = 0.5


QUESTION = b'{"messages": [{"role": "user", "content": "What is it?"}]}'
"""The body of a chat completion."""
JSON = {"Content-Type": "application/json"}


class Hang:
    """In a script: no further message before the question is cancelled."""


Step = Answer | Hang
Script = Callable[[Ask], Sequence[Step]]


def answer(ask: Ask, *texts: str, reason: FinishReason = FinishReason.STOP) -> list[Step]:
    """The messages of an answer of 11 prompt tokens, and one token for each text."""
    steps: list[Step] = [Begun(ask.id, 11)]
    begin = 0
    for text in texts if ask.streams else ():
        steps.append(Text(ask.id, begin, text))
        begin += len(text)
    return [*steps, Done(ask.id, "".join(texts), reason, 11, len(texts))]


@dataclass
class FakeQuestion:
    ask: Ask
    steps: Sequence[Step]
    media: list[bytes]
    on_loop: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def answers(self) -> AsyncIterator[Answer]:
        for step in self.steps:
            if isinstance(step, Hang):
                await self.on_loop.wait()
                return
            yield step

    def cancel(self) -> None:
        self.on_loop.set()
        self.cancelled.set()


class FakeAnswering:
    """Answers as `script` says, and remembers the questions with the bytes of their media."""

    def __init__(self) -> None:
        self.questions: list[FakeQuestion] = []
        self.asked = threading.Semaphore(0)
        self.reset()
        self.state = Load(running=1, waiting=2, slots=8, devices=2, ready=2, restarts=3)

    def reset(self) -> None:
        """Answer as at the beginning, for the next test; questions that `asked` counts are forgotten."""
        self.script: Script = lambda ask: answer(ask, "A red ", "star.")
        self.full: QueueFull | None = None
        while self.asked.acquire(blocking=False):
            pass

    def ask(self, question: Ask) -> FakeQuestion:
        if self.full is not None:
            raise self.full
        media = [Path(path).read_bytes() for path in question.media if path.startswith("/")]
        self.questions.append(FakeQuestion(question, self.script(question), media))
        self.asked.release()
        return self.questions[-1]

    def load(self) -> Load:
        return self.state

    @property
    def last(self) -> FakeQuestion:
        return self.questions[-1]


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass(frozen=True)
class Running:
    """A server that runs. spool: the folder of the media."""

    port: int
    answering: FakeAnswering
    spool: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Reply:
        """body: bytes, an iterator of bytes (chunked), or an object that is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            given = dict(headers or {})
            if body is not None and not isinstance(body, bytes) and not hasattr(body, "__next__"):
                body = json.dumps(body).encode()
                given.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, given)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def chat(self, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        return self.send("POST", "/v1/chat/completions", body, headers)

    def ask(self, content: Any = "What is it?", **fields: Any) -> Reply:
        """A chat completion of one user's message."""
        return self.chat({"messages": [{"role": "user", "content": content}], **fields})

    def media(self, url: str, kind: str = "image_url", **fields: Any) -> Reply:
        return self.ask([{"type": kind, kind: {"url": url}}], **fields)

    def metric(self, name: str) -> float:
        """A figure of /metrics, by its name with labels."""
        text = self.send("GET", "/metrics").data.decode()
        return next((float(line.split(" ")[1]) for line in text.splitlines() if line.startswith(name + " ")), 0.0)

    def raw(self, data: bytes) -> socket.socket:
        """A connection on which some bytes were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)
        connection.sendall(data)
        return connection


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that no event announces."""
    pause = threading.Event()
    for _ in range(int(SECONDS / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("the condition did not come true")


@contextmanager
def running(
    limits: RequestLimits | None = None,
    access: MediaAccess | None = None,
    api_key: str = "",
    model: ServedModel = MODEL,
    heartbeat: float = SECONDS,
    answering: FakeAnswering | None = None,
    around: Callable[[Any], Any] = lambda app: app,
) -> Iterator[Running]:
    """around: what surrounds the application, an ASGI application too."""
    answering = answering or FakeAnswering()
    settings = HttpSettings(model, limits or RequestLimits(), access or MediaAccess(), api_key)
    app = make_app(settings, answering, heartbeat)
    config = uvicorn.Config(around(app), http=Connection, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    has_started = threading.Event()
    startup = server.startup

    async def announced_startup(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        has_started.set()

    server.startup = announced_startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert has_started.wait(SECONDS)
    try:
        yield Running(listener.getsockname()[1], answering, app.state.context.spool.path)
    finally:
        server.should_exit = True
        thread.join(SECONDS)
