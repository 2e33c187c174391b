"""Runs a command many times in forks of a process that has imported its modules, for tests of its usage errors."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_SERVER = """
import json, os, runpy, signal, sys
command = sys.argv[1]
runpy.run_path(command)  # imports what the command imports, but does not run it
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
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs the command in a child process for each line of standard input; the modules are imported only once.

A line is JSON: arguments, working folder, and the folder where the child leaves the files stdout, stderr and frameworks
(those that were imported). The answer is a line with the exit code.
"""


@contextlib.contextmanager
def serve(command: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that forks for each run of the command."""
    started = [sys.executable, "-c", _SERVER, str(command)]
    with subprocess.Popen(started, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server


def check_usage_error(
    server: subprocess.Popen[str], arguments: Sequence[str], message: str, folder: Path, output: Path
) -> None:
    """Check that a run ends with a usage error: exit code 2, one line on standard error that contains `message`, no
    framework imported, nothing written.

    folder: where the command runs. output: an empty folder for what it prints.
    """
    assert server.stdin is not None and server.stdout is not None
    before = _listing(folder)
    print(json.dumps([arguments, str(folder), str(output)]), file=server.stdin, flush=True)
    exit_code = int(server.stdout.readline())
    stderr = (output / "stderr").read_text()
    assert exit_code == 2, stderr
    assert message in stderr
    assert len(stderr.strip().splitlines()) == 1, "one line"
    assert (output / "frameworks").read_text().split() == []
    assert _listing(folder) == before


def _listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*"))
