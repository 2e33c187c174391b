"""Start a decoding process, and report to the worker what the process can't import.

`make_process` runs in the worker. `_run` is the first code that runs in the decoding process. This file imports very
little: if code fails before `_run`, the worker gets no message, only the exit code.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any


@dataclass(frozen=True)
class StartProblem:
    """The first message of a process that can't do its work. `message`: the reason."""

    message: str


def make_process(
    context: SpawnContext, connection: Connection, fds: Sequence[int], serve: Callable[..., None], *arguments: Any
) -> BaseProcess:
    """A process, not yet started, that calls `serve(connection, fds, *arguments)`.

    fds: open file descriptors that the process inherits.
    """
    # Pickled separately, so that `_run` does the imports that unpickling needs. It can report an import that fails.
    work = pickle.dumps((serve, arguments))
    inherited = tuple(_InheritedFd(fd) for fd in fds)
    return context.Process(target=_run, args=(connection, inherited, work), name="clip-decoder", daemon=True)


def _run(connection: Connection, fds: Sequence[int], work: bytes) -> None:
    try:
        serve, arguments = pickle.loads(work)
    except BaseException as error:
        connection.send(StartProblem(" ".join(f"{type(error).__name__}: {error}".split())))
        return
    serve(connection, fds, *arguments)


class _InheritedFd:
    """A file descriptor that the spawned process inherits. It can be pickled only while the process is being started.

    It is unpickled as a plain descriptor (int).
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _detach, (DupFd(self._fd),)


def _detach(inherited: Any) -> int:
    return int(inherited.detach())
