"""A process that looks into files nobody can vouch for: asked for one at a time, with a deadline, killed at need."""

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
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from ..process.errors import RunError
from ..process.supervisor import die_with_parent
from .process_start import StartProblem

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
"""For a new process to import its decoders, at least; a longer deadline for clips is one for this too."""
START_PAUSES = (1.0, 3.0)
"""Seconds before each further attempt to start a process: a host may lack memory for a moment."""
_POLL_SECONDS = 0.1
_KILLED_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
"""Exit codes of a process that did not die of itself."""


@dataclass(frozen=True)
class DecoderLimits:
    """What a process that decodes may take.

    timeout: seconds for one clip and decoder.
    clips: decoded by one process, which is then replaced: decoders leak.
    memory: bytes that a process may hold; one above is killed in the middle of a clip, replaced after it.
    """

    timeout: float
    clips: int = 1000
    memory: int = 4 * 2**30


class StartError(RunError):
    """A process could not be started, for a reason that is no clip's."""


class KillableProcess(ABC):
    """Answers requests, one at a time; started at need, restarted after every kill.

    Its first message says that it has imported what it needs. To be used from one thread: Linux ends the
    process with the thread that started it.

    timeout_option: the flag that sets the deadline, for messages.
    """

    timeout_option = "--decode_timeout"

    def __init__(self, limits: DecoderLimits) -> None:
        self._limits = limits
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._clips = 0

    @abstractmethod
    def _make_process(self, context: SpawnContext, connection: Connection) -> BaseProcess:
        """A process, not yet started, that serves the other end of `connection`."""

    def ask(self, request: Any, stopping: threading.Event) -> tuple[Any, str]:
        """The reply, or None and what went wrong: too late, too large, dead, or `stopping`.

        A process that somebody else killed, such as the kernel for want of memory, says nothing of the
        request, which is then put to a new one, once.

        Raises:
            StartError: there is no process, and none can be started.
        """
        for _ in range(2):
            try:
                return self._ask(request, stopping)
            except (EOFError, OSError):
                code = self._bury()
            if code not in _KILLED_FROM_OUTSIDE:
                break
        return None, f"its process died ({_exit_text(code)})"

    def _ask(self, request: Any, stopping: threading.Event) -> tuple[Any, str]:
        """As `ask`; raises EOFError or OSError if the process dies of itself."""
        if self._process is None:
            self._start(stopping)
            if stopping.is_set():
                return None, "stopped"
        assert self._connection is not None
        self._connection.send(request)
        problem = self._wait(self._limits.timeout, "no answer", stopping, f" ({self.timeout_option})")
        return (None, problem) if problem else (self._connection.recv(), "")

    def _bury(self) -> int | None:
        """The exit code of a process that has died; everything of it is closed."""
        assert self._process is not None
        self._process.join(timeout=5)
        code = self._process.exitcode
        self.kill()
        return code

    def _wait(self, seconds: float, what: str, stopping: threading.Event, option: str = "") -> str:
        """Wait for a message; returns what went wrong, if anything did, with the process killed."""
        assert self._connection is not None
        deadline = time.monotonic() + seconds
        problem = ""
        while not problem and not self._connection.poll(_POLL_SECONDS):
            if stopping.is_set():
                return "stopped"
            if time.monotonic() > deadline:
                problem = f"{what} within {seconds:g} s{option}; its process was killed"
            elif self._resident() > self._limits.memory:
                gib = self._limits.memory / 2**30
                problem = f"took more than {gib:.1f} GiB of memory; its process was killed"
        if problem:
            self.kill()
        return problem

    def _start(self, stopping: threading.Event) -> None:
        """Start a process and wait until it has imported what it needs.

        Raises:
            StartError: it can't be started, in several attempts.
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
        """What went wrong, if anything did."""
        context = multiprocessing.get_context("spawn")
        try:
            self._connection, child_end = context.Pipe()
            with child_end:
                process = self._make_process(context, child_end)
                process.start()
        except Exception as error:  # no memory, no descriptors, forbidden, a transform that can't be pickled
            return " ".join(f"{type(error).__name__}: {error}".split())
        self._process = process
        self._clips = 0
        # The deadline is for the clip; a new process first imports its decoders.
        problem = self._wait(max(_START_SECONDS, self._limits.timeout), "it did not start", stopping)
        if problem:
            return problem
        try:
            first = self._connection.recv()
        except (EOFError, OSError):
            return f"it died while it was starting ({_exit_text(self._bury())}); standard error may say why"
        return first.message if isinstance(first, StartProblem) else ""

    def recycle(self) -> None:
        """Replace a process that has done its share, or has grown."""
        self._clips += 1
        resident = self._resident()
        if self._clips >= self._limits.clips or resident > self._limits.memory:
            logger.debug("decoding process replaced after %d clips at %d MiB", self._clips, resident // 2**20)
            self.kill()

    def _resident(self) -> int:
        """Bytes of memory that the process holds; 0 if it is gone."""
        assert self._process is not None
        try:
            with open(f"/proc/{self._process.pid}/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):
            return 0

    def kill(self) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is not None:
            process.kill()
            process.join(timeout=5)
        if connection is not None:
            connection.close()


def _main_module_problem() -> str:
    """Why no process can be spawned from this program, if that is so."""
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    # A spawned process imports the main module again, unless that was run by its name (python -m).
    if getattr(main, "__spec__", None) is not None or path is None or os.path.exists(path):
        return ""
    return f"it has to import the main program, and there is no file {path}; save the program as a file and run that"


def serve(connection: Connection, answer: Callable[[Any], Any]) -> None:
    """The other side, in the process: answer requests until `connection` closes; first say that all is imported."""
    die_with_parent(os.getppid())  # a hung decoder would never see the closed pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the worker decides
    _mute_native_output()
    connection.send(None)
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(answer(request))


def _mute_native_output() -> None:
    """FFmpeg writes to the terminal; what matters of it is in the exceptions."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"
