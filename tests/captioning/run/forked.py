"""Runs commands many times in forks of a process that has imported their modules, which takes most of a short run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

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
    command, arguments, folder, output = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(300)
        os.chdir(folder)
        for number, path in enumerate((os.devnull, output + "/stdout", output + "/stderr")):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        sys.argv = [command or first, *arguments]
        try:
            runpy.run_path(command or first, run_name="__main__")
        finally:
            with open(output + "/frameworks", "w") as file:
                print(*[name for name in ("torch", "mindspore", "mindnlp") if name in sys.modules], file=file)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs a command in a child process for each line of standard input; the modules are imported only once.

A line is JSON: command (null for the first), arguments, working folder, and the folder where the child leaves the files stdout, stderr and frameworks
(those that were imported). The answer is a line with the process id at once, and one with the exit code.
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
    print(json.dumps([command, arguments, str(folder), str(output)]), file=server.stdin, flush=True)
    process_id = int(server.stdout.readline())
    if until is not None:
        try:
            until()
        finally:
            os.kill(process_id, signal.SIGKILL)
    return int(server.stdout.readline())


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
