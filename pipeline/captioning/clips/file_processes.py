"""Many files at once in separate processes: a damaged file can hang or crash such a process, but not the command.

Knows nothing about what is read from the files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from tqdm import tqdm

from ..process.errors import RunError
from .killable import Deadline, DecoderLimits, KillableProcess, serve

Request = TypeVar("Request", bound=Hashable)
Answer = TypeVar("Answer")


def ask_processes(
    requests: Sequence[Request],
    answer: Callable[[Request], Answer | str],
    workers: int,
    timeout: float,
    label: str,
    seconds: Callable[[Request], float] | None = None,
) -> tuple[dict[Request, Answer], dict[Request, str]]:
    """The answer to each request, and the problem of each request without an answer. Equal requests are asked once.

    answer: runs in the processes, so it is a function of a module. A str that it returns is a problem.
    workers: number of processes.
    timeout: seconds for one request (flag `--timeout`).
    label: for the progress bar.
    seconds: for each request, its own number of seconds instead of `timeout`.

    Raises:
        RunError: no process can be started.
    """
    distinct = list(dict.fromkeys(requests))
    pending: Iterator[Request] = iter(distinct)
    found: dict[Request, Answer] = {}
    problems: dict[Request, str] = {}
    failures: list[RunError] = []
    lock, stopping = threading.Lock(), threading.Event()

    def ask_pending(bar: tqdm) -> None:
        process = FileProcess(DecoderLimits(timeout), answer)
        try:
            while not stopping.is_set():
                with lock:
                    request = next(pending, None)
                if request is None:
                    return
                deadline = None if seconds is None else Deadline(seconds(request), FileProcess.timeout_option)
                reply, problem = process.ask(request, stopping, deadline)
                with lock:
                    if reply is None or isinstance(reply, str):
                        problems[request] = problem or str(reply)
                    else:
                        found[request] = reply
                    bar.update()
                if reply is not None:
                    process.recycle()
        except RunError as error:
            failures.append(error)
            stopping.set()
        finally:
            process.kill()

    with tqdm(total=len(distinct), unit="file", desc=label, smoothing=0.05, disable=None) as bar:
        threads = [
            threading.Thread(target=ask_pending, args=(bar,), daemon=True)
            for _ in range(max(1, min(workers, len(distinct))))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            stopping.set()
    if failures:
        raise failures[0]
    return found, problems


def message_of(error: Exception) -> str:
    """One line about an error of a decoder, which may be of any type."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class FileProcess(KillableProcess):
    """A process that answers requests with the function `answer`."""

    timeout_option = "--timeout"

    def __init__(self, limits: DecoderLimits, answer: Callable[[Any], Any]) -> None:
        super().__init__(limits)
        self._answer = answer

    def _make_process(self, context: SpawnContext, connection: Connection) -> BaseProcess:
        return context.Process(target=serve, args=(connection, self._answer), name="file-reader", daemon=True)
