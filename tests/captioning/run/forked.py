"""Runs commands many times in forks of a process that has imported their modules, which takes most of a short run."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from scripts import launched

_TORCH_MODULES = (
    "torch",
    *("transformers.models.llava.modeling_llava", "transformers.models.llama.modeling_llama"),
    *("transformers.models.clip.modeling_clip", "transformers.models.qwen2.modeling_qwen2"),
)
_SERVER = """
import importlib, json, os, runpy, signal, sys
first, *modules = sys.argv[1:]
runpy.run_path(first)  # imports what the command imports, but does not run it
for module in modules:
    importlib.import_module(module)
for line in sys.stdin:
    command, arguments, folder, stdout, stderr, frameworks, environment = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(300)
        os.chdir(folder)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        for number, path in enumerate((os.devnull, stdout, stderr)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        sys.argv = [command or first, *arguments]
        try:
            runpy.run_path(command or first, run_name="__main__")
        finally:
            with open(frameworks, "w") as file:
                print(*[name for name in ("torch", "mindspore", "mindnlp") if name in sys.modules], file=file)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs a command in a child process for each line of standard input; the modules are imported only once.

A line is JSON: command (null for the first), arguments, working folder, files for standard output, standard error and
the names of the imported frameworks, and environment (null for that of the server). The answer is a line with the
process id at once, and one with the exit code.
"""


@contextlib.contextmanager
def serve(command: Path, *modules: str) -> Iterator[subprocess.Popen[str]]:
    """A process that forks for each run of the command. modules: imported in addition, which the command does later."""
    started = [sys.executable, "-c", _SERVER, str(command), *modules]
    with subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server


def run(
    server: subprocess.Popen[str],
    arguments: Sequence[str],
    folder: Path,
    output: Path,
    until: Callable[[], None] | None = None,
    command: str | None = None,
) -> int:
    """Run the command, and return its exit code.

    folder: where the command runs. output: an empty folder for what it prints.
    until: returns when the command is to be killed; None to wait for its end.
    command: another command than that of `serve`.
    """
    assert server.stdin is not None and server.stdout is not None
    files = [str(output / name) for name in ("stdout", "stderr", "frameworks")]
    print(json.dumps([command, arguments, str(folder), *files, None]), file=server.stdin, flush=True)
    process_id = int(server.stdout.readline())
    if until is not None:
        try:
            until()
        finally:
            os.kill(process_id, signal.SIGKILL)
    return int(server.stdout.readline())


class Forks:
    """Starts a command as `subprocess.Popen` does, in forks of processes that have imported its modules.

    Close it at the end. command, modules: as in `serve`.
    """

    def __init__(self, command: Path, *modules: str) -> None:
        self._started = [sys.executable, "-c", _SERVER, str(command), *modules]
        self._servers: list[subprocess.Popen[bytes]] = []
        self._idle: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], cwd: Path, stdout: BinaryIO, stderr: BinaryIO, env: Mapping[str, str]
    ) -> ForkedProcess:
        """command: with the interpreter. stdout, stderr: files with names."""
        if not self._idle:  # without buffers: `select` must see every byte that has not been read
            self._idle.append(subprocess.Popen(self._started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0))
            self._servers += self._idle
        files = [stdout.name, stderr.name, os.devnull]
        line = json.dumps([*command[1:2], command[2:], str(cwd), *files, dict(env)])
        return ForkedProcess(self._idle.pop(), line, self._idle)

    def close(self) -> None:
        """End the servers."""
        for server in self._servers:
            server.kill()
            server.communicate()


class ForkedProcess:
    """A running command, with the methods of `subprocess.Popen` that tests need.

    idle: gets the server when the command has ended.
    """

    def __init__(self, server: subprocess.Popen[bytes], line: str, idle: list[subprocess.Popen[bytes]]) -> None:
        assert server.stdin is not None and server.stdout is not None
        self._server, self._answers, self._idle = server, server.stdout, idle
        self.returncode: int | None = None
        server.stdin.write(line.encode() + b"\n")
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when the command has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self.returncode = int(self._answers.readline())
            self._idle.append(self._server)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code; None while the command runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the command runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, if the command runs."""
        self.send_signal(signal.SIGKILL)


class TorchRuns:
    """Complete runs in one process on PyTorch, as with `launched.plain`."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def __call__(self, folder: Path, *arguments: str, command: str = launched.COMMAND) -> None:
        """Caption `meta.csv` of `folder`. What the command prints is in `launcher.log` there.

        Raises:
            AssertionError: the command failed.
        """
        with tempfile.TemporaryDirectory() as name:
            exit_code = run(self._server, ["meta.csv", *arguments], folder, Path(name), command=command)
            printed = (Path(name) / "stderr").read_text()
        (folder / "launcher.log").write_text(printed)
        assert exit_code == 0, printed


@contextlib.contextmanager
def torch_runs() -> Iterator[TorchRuns]:
    """A process that has imported PyTorch and the model classes that most tests use."""
    with serve(Path(launched.COMMAND), *_TORCH_MODULES) as server:
        yield TorchRuns(server)


def check_usage_error(
    server: subprocess.Popen[str], arguments: Sequence[str], message: str, folder: Path, output: Path
) -> None:
    """Check that a run ends with a usage error: exit code 2, one line on standard error that contains `message`, no
    framework imported, nothing written.

    folder: where the command runs. output: an empty folder for what it prints.
    """
    before = _listing(folder)
    exit_code = run(server, arguments, folder, output)
    stderr = (output / "stderr").read_text()
    assert exit_code == 2, stderr
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1, "one line"
    assert (output / "frameworks").read_text().split() == []
    assert _listing(folder) == before


def _listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*"))
