"""The command of the server: usage errors, start, signals, exit codes. The processes are real, the devices fakes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.serving import command
from pipeline.serving.flags import make_parser
from tests.serving.devices.fake_devices import DEADLINE, ROOT

TINY = ROOT / "pretrained_models" / "pllava-tiny"


class RunningServer:
    """A server in a process of its own. log: what it wrote to stderr so far."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        checkpoint = ("--pretrained_model_name_or_path", str(TINY))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.stub_server", *arguments, *checkpoint, "--port", "0"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def request(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        match = self._match()
        assert match is not None
        with contextlib.closing(http.client.HTTPConnection(match[1], int(match[2]), timeout=DEADLINE)) as connection:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.request("GET", "/about")[1])
        return found

    def wait_until_listening(self) -> None:
        until(lambda: self._match() is not None)

    def wait_until_ready(self) -> None:
        self.wait_until_listening()
        until(lambda: self.request("GET", "/health")[0] == 200)

    def _match(self) -> re.Match[str] | None:
        return re.search(r"listening on http://([\d.]+):(\d+)", self.log)

    def exit_code(self) -> int:
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE)


@contextlib.contextmanager
def running_server(*arguments: str, **variables: str) -> Iterator[RunningServer]:
    server = RunningServer(*arguments, **variables)
    try:
        yield server
    finally:
        server.end()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)


def _ended(process: int) -> bool:
    return not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


def test_settings_answers_and_an_orderly_end(tmp_path: Path) -> None:
    flags = ["--devices", "cpu,cpu", "--max_new_tokens", "17", "--num_frames", "3", "--question", "What {{happens}}?"]
    flags += ["--allow_media_domain", "Media.example.com:81", "--allow_media_path", str(tmp_path)]
    flags += ["--max_body", "3M", "--api_key_env", "SOME_KEY"]
    with running_server(*flags, SOME_KEY="very-secret", OTHER="x") as server, ThreadPoolExecutor(1) as threads:
        server.wait_until_ready()
        about = server.about()
        processes = about.pop("processes")
        assert about == {
            "running": 0,
            "model": ["pllava-tiny", "What {happens}?", 17, 3],
            "body_bytes": 3 * 2**20,
            "domains": ["media.example.com:81"],
            "folders": [str(tmp_path.resolve())],
            "has_key": True,
            "frameworks": [],
        }
        assert len(processes) == 2
        for process in processes:
            environment = psutil.Process(process).environ()
            assert environment["OTHER"] == "x" and "SOME_KEY" not in environment
        assert server.request("POST", "/ask", "hello")[1].endswith(" hello")
        until(lambda: re.search(r"ready after .* cpu:0: fake .* slots; cpu:1: fake", server.log) is not None)

        held = threads.submit(server.request, "POST", "/ask", "hold")
        until(lambda: server.about()["running"] == 1)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.request("GET", "/health")[0] == 503)
        assert server.request("POST", "/ask", "hello") == (503, "the server is shutting down")
        for process in processes:
            os.kill(process, signal.SIGUSR1)
        status, text = held.result(DEADLINE)
        assert status == 200 and text.endswith("released")
        assert server.exit_code() == 0
        assert all(map(_ended, processes))
        assert "very-secret" not in server.log and "Traceback" not in server.log


def test_a_second_signal_ends_the_server_at_once() -> None:
    with running_server("--drain_timeout", "1000") as server, ThreadPoolExecutor(1) as threads:
        server.wait_until_ready()
        processes = server.about()["processes"]
        held = threads.submit(server.request, "POST", "/ask", "hold")
        until(lambda: server.about()["running"] == 1)
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGINT)  # a copy
        until(lambda: server.request("GET", "/health")[0] == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 1
        assert held.exception(DEADLINE) is not None
        assert all(map(_ended, processes))
        assert "ended by a second signal (SIGTERM)" in server.log and "Traceback" not in server.log


def test_no_device_process_outlives_a_killed_server() -> None:
    with running_server("--devices", "cpu,cpu") as server:
        server.wait_until_ready()
        processes = server.about()["processes"]
        server.process.kill()
        until(lambda: all(map(_ended, processes)))


def test_a_model_that_cannot_be_loaded_ends_the_server() -> None:
    with running_server("--fake_device", "--loaded", "--fake_device", "usage") as server:
        assert server.exit_code() == 2
        assert server.log.splitlines()[-1].startswith("python -m pipeline.serving: weights are missing")
        assert "Traceback" not in server.log


def _no_app(*_: object) -> None:
    raise AssertionError("a usage error must end the command before anything is started")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "0.0.0.0"], "without a key the server listens on the loopback address only"),
        (["--host", ""], "without a key the server listens on the loopback address only"),
        (["--api_key_env", "NO_SUCH_KEY"], "NO_SUCH_KEY: the environment variable is not set"),
        (["--api_key_env", "EMPTY_KEY"], "EMPTY_KEY: the environment variable is empty"),
        (["--api_key_env", "BAD_KEY"], "contains a space"),
        (["--port", "70000"], "70000 is more than 65535"),
        (["--devices", "0,cpu"], "mixes the CPU and accelerators"),
        (["--devices", "0,0"], "names a device twice"),
        (["--devices", "gpu"], "'gpu' is not the number of a device"),
        (["--device", "cuda", "--devices", "cpu"], "contradict each other"),
        (["--device", "cpu", "--devices", "0"], "give --devices cpu"),
        (["--allow_media_path", "/no/such/folder"], "/no/such/folder does not exist"),
        (["--allow_media_domain", "http://a.example.com/"], "is not a host"),
        (["--allow_media_domain", "*.example.com"], "is not a host"),
        (["--question", "About {path}"], "a server has no table"),
        (["--pretrained_model_name_or_path", "/no/such/model"], "checkpoint folder /no/such/model does not exist"),
        (["--max_waiting", "-1"], "-1 is less than 0"),
    ],
)
def test_usage_errors(
    flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EMPTY_KEY", "")
    monkeypatch.setenv("BAD_KEY", "two words")
    checkpoint = ["--pretrained_model_name_or_path", str(TINY), "--port", "0"]
    assert command.main([*checkpoint, *flags], _no_app) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_paths_for_device_processes_are_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of these processes work in another folder."""
    monkeypatch.chdir(TINY.parent)
    flags = make_parser().parse_args(["--pretrained_model_name_or_path", TINY.name, "--devices", "cpu"])
    sent = command._devices_settings(flags, ("cpu",), ()).device.flags
    assert sent.pretrained_model_name_or_path == TINY
    assert not [value for value in vars(sent).values() if isinstance(value, Path) and not value.is_absolute()]


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        flags = ["--pretrained_model_name_or_path", str(TINY), "--port", str(port)]
        assert command.main(flags, _no_app) == 2
    assert f"port {port} of 127.0.0.1 is in use; give another --port" in capsys.readouterr().err
