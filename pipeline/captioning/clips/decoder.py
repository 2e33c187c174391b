"""A decoding process as its worker sees it: asked for one clip at a time, with a deadline, killed at need.

Decoders are tried one after the other, so that one that hangs or crashes leaves the next its turn; what
goes wrong costs that clip alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from PIL import Image

from .decode import available_decoders
from .decode_process import DecodeReply, DecodeRequest, serve
from .frame_memory import FrameMemory

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
"""For a new process to import its decoders, at least; a longer deadline for clips is one for this too."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class DecoderLimits:
    """What a decoding process may take.

    timeout: seconds for one clip and decoder.
    clips: decoded by one process, which is then replaced: decoders leak.
    memory: bytes that a process may hold; one above is killed in the middle of a clip, replaced after it.
    """

    timeout: float
    clips: int = 1000
    memory: int = 4 * 2**30


class Decoder:
    """A decoding process, started at need, restarted after every kill.

    To be used from one thread: Linux ends the process with the thread that started it.
    """

    def __init__(
        self,
        num_frames: int,
        frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
        limits: DecoderLimits,
    ) -> None:
        self._arguments = (num_frames, frame_transform)
        self._limits = limits
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._memory: FrameMemory | None = None
        self._clips = 0

    def decode(self, path: str, stopping: threading.Event) -> tuple[np.ndarray | None, DecodeReply]:
        """Ask the process for one decoder after the other, each with the whole deadline.

        Returns the prepared frames and the reply, or None and a reply with every message.
        """
        messages: list[str] = []
        for decoder in available_decoders(path):
            reply, problem = self._ask(DecodeRequest(path, decoder), stopping)
            if stopping.is_set():
                break
            if reply is None:
                logger.warning("%s: %s: %s", path, decoder, problem)
                messages.append(f"{decoder}: {problem}")
            elif reply.stage == "decode":
                messages += reply.messages
            else:
                frames = None
                if reply.frames is not None:
                    assert self._memory is not None
                    frames = self._memory.get(reply.frames)
                self._recycle()
                return frames, reply
        return None, DecodeReply(stage="decode", messages=tuple(messages))

    def _ask(self, request: DecodeRequest, stopping: threading.Event) -> tuple[DecodeReply | None, str]:
        try:
            if self._process is None:
                self._start()
                # The deadline is for the clip; a new process first imports its decoders.
                patience = max(_START_SECONDS, self._limits.timeout)
                problem = self._wait(patience, "it did not start", stopping)
                if problem:
                    return None, problem
                assert self._connection is not None
                self._connection.recv()
            assert self._connection is not None
            self._connection.send(request)
            problem = self._wait(self._limits.timeout, "no answer", stopping, " (--decode_timeout)")
            return (None, problem) if problem else (self._connection.recv(), "")
        except (EOFError, OSError):
            assert self._process is not None
            self._process.join(timeout=5)
            code = self._process.exitcode
            self.kill()
            return None, f"its process died ({_exit_text(code)})"

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

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child_end = context.Pipe()
        self._memory = FrameMemory()
        self._process = context.Process(
            target=_serve,
            args=(child_end, _Inherited(self._memory.fd), *self._arguments),
            name="clip-decoder",
            daemon=True,
        )
        self._process.start()
        self._clips = 0
        child_end.close()

    def _recycle(self) -> None:
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
        process, connection, memory = self._process, self._connection, self._memory
        self._process = self._connection = self._memory = None
        if process is not None:
            process.kill()
            process.join(timeout=5)
        if connection is not None:
            connection.close()
        if memory is not None:
            memory.close()


class _Inherited:
    """A file descriptor that a spawned process gets too: pickled while it is being started."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Callable[[Any], int], tuple[Any]]:
        return _detach, (DupFd(self._fd),)


def _detach(inherited: Any) -> int:
    return int(inherited.detach())


def _serve(
    connection: Connection,
    memory_fd: int,
    num_frames: int,
    frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
) -> None:
    serve(connection, FrameMemory(memory_fd), num_frames, frame_transform)


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"
