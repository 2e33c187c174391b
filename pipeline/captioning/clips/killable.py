"""A child process for files that may hang or crash it. It is killed when it exceeds a limit of time or memory.

`KillableProcess` runs in the worker; `serve` runs in the child process. Knows nothing about the content of requests.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from ..process.errors import RunError
from ..process.supervisor import die_with_parent
from .downloads.limits import DownloadLimits
from .process_start import StartProblem

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
"""Deadline for a new process to import its decoders. If `DecoderLimits.timeout` is longer, that is the deadline."""
START_PAUSES = (1.0, 3.0)
"""Seconds before the second and the third attempt to start a process: memory may be short for a moment only."""
_POLL_SECONDS = 0.1
_KILLED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
"""Exit codes of a process that something else killed, for example the kernel because memory was short."""


@dataclass(frozen=True)
class DecoderLimits:
    """Limits of a decoding process.

    timeout: seconds for one clip with one decoder.
    clips: number of clips after which a process is replaced, because decoders leak memory.
    memory: resident bytes. A process that exceeds them during a clip is killed; one that exceeds them after a clip is
        replaced, and the clip is kept.
    download: limits of the download of a clip whose path is a URL.
    """

    timeout: float
    clips: int = 1000
    memory: int = 4 * 2**30
    download: DownloadLimits = field(default_factory=DownloadLimits)


@dataclass(frozen=True)
class Deadline:
    """The time limit of one request.

    seconds: from sending the request to its reply.
    option: the command-line flag that sets it, for messages.
    begin: when the seconds begin, on the clock of `time.monotonic()`, also if the request is sent again to another
        process; None: each process has all of them.
    """

    seconds: float
    option: str = ""
    begin: float | None = None


class StartError(RunError):
    """A process could not be started. No clip is the cause."""


class KillableProcess(ABC):
    """A child process that replies to one request at a time. It is started when needed, also after it was killed.

    The first message of the child reports that all imports are done, or is a StartProblem. Use an object from one
    thread only: Linux kills the child when the thread that started it ends.

    timeout_option: the command-line flag that sets the deadline, for messages.
    """

    timeout_option = "--decode_timeout"

    def __init__(self, limits: DecoderLimits) -> None:
        self._limits = limits
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._clips_done = 0  # by the present process

    @abstractmethod
    def _make_process(self, context: SpawnContext, connection: Connection) -> BaseProcess:
        """A process, not yet started, that serves the other end of `connection`."""

    def ask(self, request: Any, stopping: threading.Event, deadline: Deadline | None = None) -> tuple[Any, str]:
        """Send a request and wait for the reply.

        deadline: None for that of the limits.

        Returns the reply and ''; or None and the problem: too late, too much memory, died, or `stopping` was set.

        If something else killed the process, for example the kernel because memory was short, the request is not the
        cause. Then it is sent to a new process, once.

        Raises:
            StartError: there is no process, and none can be started.
        """
        for _ in range(2):
            try:
                return self._ask_once(request, stopping, deadline or self._deadline)
            except (EOFError, OSError):
                code = self._reap()
            if code not in _KILLED_FROM_OUTSIDE:
                break
        return None, f"its process died ({_exit_text(code)})"

    def start_if_needed(self, stopping: threading.Event) -> None:
        """Start a process if there is none. `ask` does the same, but in the time of its deadline.

        Raises:
            StartError: none can be started.
        """
        if self._process is None:
            self._start(stopping)

    @property
    def _deadline(self) -> Deadline:
        return Deadline(self._limits.timeout, self.timeout_option)

    def _ask_once(self, request: Any, stopping: threading.Event, deadline: Deadline) -> tuple[Any, str]:
        """As `ask`, without a second attempt.

        Raises:
            EOFError, OSError: the process died, and `kill` of this object was not the cause.
        """
        self.start_if_needed(stopping)
        if self._process is None or stopping.is_set():
            return None, "stopped"
        assert self._connection is not None
        self._connection.send(request)
        problem = self._wait(deadline, "no answer", stopping)
        return (None, problem) if problem else (self._connection.recv(), "")

    def _reap(self) -> int | None:
        """Release everything of a process that has died, and return its exit code."""
        assert self._process is not None
        self._process.join(timeout=5)
        code = self._process.exitcode
        self.kill()
        return code

    def _wait(self, deadline: Deadline, what: str, stopping: threading.Event) -> str:
        """Wait for a message of the child. Returns '' if there is one, else the problem.

        After a problem the process is killed, unless `stopping` was set.

        what: begin of the message about a missed deadline.
        """
        assert self._connection is not None
        end = (time.monotonic() if deadline.begin is None else deadline.begin) + deadline.seconds
        problem = ""
        while not problem and not self._connection.poll(_POLL_SECONDS):
            if stopping.is_set():
                return "stopped"
            if time.monotonic() > end:
                option = f" ({deadline.option})" if deadline.option else ""
                problem = f"{what} within {deadline.seconds:g} s{option}; its process was killed"
            elif self._resident_bytes() > self._limits.memory:
                gib = self._limits.memory / 2**30
                problem = f"took more than {gib:.1f} GiB of memory; its process was killed"
        if problem:
            self.kill()
        return problem

    def _start(self, stopping: threading.Event) -> None:
        """Start a process and wait until it has done its imports. Returns early if `stopping` is set.

        Raises:
            StartError: all attempts failed.
        """
        problem = _main_module_problem()
        for pause in (0.0, *START_PAUSES) if not problem else ():
            if stopping.wait(pause):
                return
            problem = self._try_to_start(stopping)
            if not problem or stopping.is_set():
                return
            self.kill()
        raise StartError(f"a decoding process can't be started: {problem}")

    def _try_to_start(self, stopping: threading.Event) -> str:
        """Returns '' if the process is ready, else the problem."""
        context = multiprocessing.get_context("spawn")
        try:
            self._connection, child_end = context.Pipe()
            with child_end:
                process = self._make_process(context, child_end)
                process.start()
        except Exception as error:  # no memory, descriptors or permission; a transform that can't be pickled
            return " ".join(f"{type(error).__name__}: {error}".split())
        self._process = process
        self._clips_done = 0
        problem = self._wait(Deadline(max(_START_SECONDS, self._limits.timeout)), "it did not start", stopping)
        if problem:
            return problem
        try:
            first = self._connection.recv()
        except (EOFError, OSError):
            return f"it died while it was starting ({_exit_text(self._reap())}); see standard error"
        return first.message if isinstance(first, StartProblem) else ""

    def recycle(self) -> None:
        """Count a clip. If the process has reached its limit of clips or memory, kill it; `ask` starts a new one."""
        if self._process is None:
            return
        self._clips_done += 1
        resident = self._resident_bytes()
        if self._clips_done >= self._limits.clips or resident > self._limits.memory:
            logger.debug("decoding process replaced after %d clips at %d MiB", self._clips_done, resident // 2**20)
            self.kill()

    def _resident_bytes(self) -> int:
        """Resident memory of the process in bytes; 0 if it has ended."""
        assert self._process is not None
        try:
            with open(f"/proc/{self._process.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):
            return 0

    def kill(self) -> None:
        """Kill the process, if there is one, and close the connection."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is not None:
            process.kill()
            process.join(timeout=5)
        if connection is not None:
            connection.close()


def _main_module_problem() -> str:
    """Why no process can be spawned from this program; '' if one can."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    # A spawned process imports the main program again: by name after `python -m`, else from its file, if there is one.
    # After `python -c` it imports nothing.
    if getattr(main, "__spec__", None) is not None or path is None or os.path.exists(path):
        return ""
    return f"it must import the main program, but there is no file {path}; save the program as a file and run it"


def serve(connection: Connection, handle_request: Callable[[Any], Any]) -> None:
    """Runs in the child process: reply to requests until `connection` is closed.

    The first message, None, reports that all imports are done.
    """
    die_with_parent(os.getppid())  # a decoder that hangs does not notice that the pipe was closed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the worker stops this one
    _mute_native_output()
    connection.send(None)
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(handle_request(request))


def _mute_native_output() -> None:
    """Discard what FFmpeg prints to standard error. The exceptions contain the important part."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"
