"""Starts the captioning server, and sends requests to it: for tests and measurements.

Knows nothing about models and about what the answers should be.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 180.0
"""Time for the server to load its model; large enough for a busy machine."""


@dataclass
class RunningServer:
    """A server that was started by `running_server`.

    process: the HTTP process. log: the file with its standard error.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def base_url(self) -> str:
        """For client libraries."""
        return f"{self.url}/v1"

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def status(self, path: str) -> int:
        """The HTTP status of a GET; 0 if there is no answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait_until_healthy(self, seconds: float = START_SECONDS) -> None:
        """Wait until all devices are ready.

        Raises:
            RuntimeError: the server has ended, or is not ready in time.
        """
        deadline = time.monotonic() + seconds
        while self.status("/health") != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server is not ready:\n{self.log_text()}")
            time.sleep(0.1)

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics by name, with the labels as they are written."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:
            lines = response.read().decode("utf-8").splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def device_processes(self) -> list[psutil.Process]:
        """The device processes, without their decoding processes."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "pipeline.serving.device" in " ".join(child.cmdline())]

    def memory(self) -> dict[str, int]:
        """Bytes of memory by kind of process, without what processes share: `http`, `devices`, `decoding`."""
        parent, found = psutil.Process(self.process.pid), {"http": 0, "devices": 0, "decoding": 0}
        devices = {process.pid for process in self.device_processes()}
        for process in [parent, *parent.children(recursive=True)]:
            kind = "http" if process.pid == parent.pid else "devices" if process.pid in devices else "decoding"
            with contextlib.suppress(psutil.Error):  # it may have ended
                found[kind] += process.memory_full_info().uss
        return found

    def stop(self, number: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextlib.contextmanager
def running_server(
    checkpoint: Path, folder: Path, *flags: str, environment: Mapping[str, str] | None = None, wait: bool = True
) -> Iterator[RunningServer]:
    """A server on a free port, which is killed at the end.

    folder: for its log. flags: further flags. environment: further variables. wait: until it is healthy.
    """
    port = free_port()
    command = [sys.executable, "-m", "pipeline.serving", "--pretrained_model_name_or_path", str(checkpoint)]
    log = folder / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port), *flags],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = RunningServer(f"http://127.0.0.1:{port}", process, log)
    try:
        if wait:
            server.wait_until_healthy()
        yield server
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """A TCP port of the loopback address that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def data_url(path: Path, mime_type: str) -> str:
    """The content of a file as a data URL."""
    return f"data:{mime_type};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def video_body(path: Path, **fields: Any) -> bytes:
    """The body of a chat completion about an MP4 file. fields: further fields of the body."""
    content = [{"type": "video_url", "video_url": {"url": data_url(path, "video/mp4")}}]
    return json.dumps({"messages": [{"role": "user", "content": content}], **fields}).encode("ascii")


@dataclass
class Answers:
    """What clients received.

    captions: of each body, by its number: all captions that differ, in the order of their arrival.
    seconds: from sending to the end of the answer, for each answer. ended: when, on the clock of `time.monotonic`.
    problems: status and text of answers that are no caption.
    """

    captions: dict[int, list[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, number: int, caption: str, began: float) -> None:
        self.ended.append(time.monotonic())
        self.seconds.append(self.ended[-1] - began)
        known = self.captions.setdefault(number, [])
        if caption not in known:
            known.append(caption)


async def send(
    url: str, bodies: Sequence[bytes], clients: int, requests: int | None = None, seconds: float | None = None
) -> Answers:
    """Let clients send one request after the other, until a number of requests or a time is reached.

    url: of the server, without a path. bodies: are sent in turn.
    """
    answers, numbers = Answers(), iter(range(requests if requests is not None else sys.maxsize))
    deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
    timeout = aiohttp.ClientTimeout(total=600)

    async def client(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            if time.monotonic() >= deadline:
                return
            began = time.monotonic()
            try:
                async with session.post(
                    f"{url}/v1/chat/completions",
                    data=bodies[number % len(bodies)],
                    headers={"Content-Type": "application/json"},
                ) as response:
                    text = await response.text()
                    if response.status != 200:
                        answers.problems.append(f"{response.status}: {text[:300]}")
                        continue
                    caption = json.loads(text)["choices"][0]["message"]["content"]
                    answers.add(number % len(bodies), caption, began)
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                answers.problems.append(f"{type(error).__name__}: {error}")

    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return answers
