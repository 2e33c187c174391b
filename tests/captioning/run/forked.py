"""Runs a command many times in forks of a process that has imported its modules, which takes most of a short run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_SERVER = """
import importlib, json, os, runpy, signal, sys
command, *modules = sys.argv[1:]
runpy.run_path(command)  # imports what the command imports, but does not run it
for module in modules:
    importlib.import_module(module)
for line in sys.stdin:
    arguments, folder, output = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        os.chdir(folder)
        for number, path in enumerate((os.devnull, output + "/stdout", output + "/stderr")):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        sys.argv = [command, *arguments]
        try:
            runpy.run_path(command, run_name="__main__")
        finally:
            with open(output + "/frameworks", "w") as file:
                print(*[name for name in ("torch", "mindspore", "mindnlp") if name in sys.modules], file=file)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs the command in a child process for each line of standard input; the modules are imported only once.

A line is JSON: arguments, working folder, and the folder where the child leaves the files stdout, stderr and frameworks
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
) -> int:
    """Run the command, and return its exit code.

    folder: where the command runs. output: an empty folder for what it prints.
    until: returns when the command is to be killed; None to wait for its end.
    """
    assert server.stdin is not None and server.stdout is not None
    print(json.dumps([arguments, str(folder), str(output)]), file=server.stdin, flush=True)
    process_id = int(server.stdout.readline())
    if until is not None:
        try:
            until()
        finally:
            os.kill(process_id, signal.SIGKILL)
    return int(server.stdout.readline())


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
