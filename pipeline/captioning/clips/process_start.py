"""The first code that runs in a decoding process: imports the rest, and tells the worker what can't be imported.

Imports next to nothing itself: what fails before this code runs can't be told to the worker, only the exit code.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any


@dataclass(frozen=True)
class StartProblem:
    """The first message of a process that can't do its work, and why."""

    message: str


def make_process(
    context: SpawnContext, connection: Connection, memory_fd: int, serve: Callable[..., None], *arguments: Any
) -> BaseProcess:
    """A process, not yet started, that calls `serve(connection, memory_fd, *arguments)`."""
    # Pickled by itself: what it names is imported by `_run`, which can tell of an import that fails.
    work = pickle.dumps((serve, arguments))
    return context.Process(
        target=_run, args=(connection, _Inherited(memory_fd), work), name="clip-decoder", daemon=True
    )


def _run(connection: Connection, memory_fd: int, work: bytes) -> None:
    try:
        serve, arguments = pickle.loads(work)
    except BaseException as error:
        connection.send(StartProblem(" ".join(f"{type(error).__name__}: {error}".split())))
        return
    serve(connection, memory_fd, *arguments)


class _Inherited:
    """A file descriptor that a spawned process gets too: pickled while it is being started."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _detach, (DupFd(self._fd),)


def _detach(inherited: Any) -> int:
    return int(inherited.detach())
