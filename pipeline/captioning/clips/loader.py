"""Loads clips ahead of the device: one decoding process that can be killed, a deadline for each clip.

Decoders are tried one after the other, so that one that hangs or crashes leaves the next its turn; what
goes wrong costs that clip alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import numpy as np
from PIL import Image

from .decode import available_decoders
from .decode_process import DecodeReply, DecodeRequest, serve

logger = logging.getLogger(__name__)

_START_SECONDS = 60.0
"""Grace for a new process to import its decoders, on top of the first clip's deadline."""


@dataclass(frozen=True)
class LoadedClip:
    """A row with its prepared frames, or with what went wrong.

    frames: as the captioner's frame transform made them; None if it failed.
    stage, messages: where it failed and every message.
    """

    row: int
    path: str
    frames: np.ndarray | None
    frame_index: tuple[int, ...]
    stage: str
    messages: tuple[str, ...]


class ClipLoader:
    """Gives the clips of `rows` in order, once; a context manager that ends its process.

    rows: (row, path) pairs.
    num_frames: frames to sample of each clip.
    frame_transform: runs in the decoding process; picklable.
    timeout: deadline for one clip, in seconds.
    prefetch: clips decoded ahead of the consumer.
    """

    def __init__(
        self,
        rows: Sequence[tuple[int, str]],
        num_frames: int,
        frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
        timeout: float,
        prefetch: int,
    ) -> None:
        self.wait_seconds = 0.0
        """How long the consumer has waited for clips so far."""
        self.decode_seconds = 0.0
        """How long clips have been decoded so far, beside the consumer."""
        self._ended = False
        self._rows = rows
        self._decoder = _DecoderHandle(num_frames, frame_transform, timeout)
        self._clips: queue.Queue[LoadedClip | BaseException | None] = queue.Queue(maxsize=max(1, prefetch))
        self._stopping = threading.Event()
        # Linux ends the child with the thread that started it (see decode_process), so one thread
        # owns the process for its whole life.
        self._thread = threading.Thread(target=self._load, name="clip-loader", daemon=True)
        self._thread.start()

    def next_clip(self, wait: bool = True) -> LoadedClip | None:
        """The next clip; None if it is not there yet, or, when told to wait, after the last one."""
        if self._ended:
            return None
        begin = time.monotonic()
        try:
            clip = self._clips.get(block=wait)
        except queue.Empty:
            return None
        self.wait_seconds += time.monotonic() - begin
        if isinstance(clip, BaseException):
            raise clip
        self._ended = clip is None
        return clip

    def __iter__(self) -> Iterator[LoadedClip]:
        while (clip := self.next_clip()) is not None:
            yield clip

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._decoder.kill()
        self._thread.join(timeout=10)

    def _load(self) -> None:
        try:
            for row, path in self._rows:
                if self._stopping.is_set():
                    return
                begin = time.monotonic()
                reply = self._decoder.decode(path, self._stopping)
                self.decode_seconds += time.monotonic() - begin
                self._put(LoadedClip(row, path, reply.frames, reply.frame_index, reply.stage, reply.messages))
            self._put(None)
        except BaseException as error:  # a defect of ours; the consumer must not wait for ever
            self._put(error)
        finally:
            self._decoder.kill()

    def _put(self, clip: LoadedClip | BaseException | None) -> None:
        while not self._stopping.is_set():
            try:
                return self._clips.put(clip, timeout=0.5)
            except queue.Full:
                continue


class _DecoderHandle:
    """The decoding process as seen from the worker; started at need, restarted after every kill."""

    def __init__(
        self,
        num_frames: int,
        frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
        timeout: float,
    ) -> None:
        self._arguments = (num_frames, frame_transform)
        self._timeout = timeout
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def decode(self, path: str, stopping: threading.Event) -> DecodeReply:
        """Ask the process for one decoder after the other, each with the whole deadline."""
        messages: list[str] = []
        for decoder in available_decoders(path):
            if stopping.is_set():
                break
            reply, problem = self._ask(DecodeRequest(path, decoder), stopping)
            if reply is None:
                logger.warning("%s: %s: %s", path, decoder, problem)
                messages.append(f"{decoder}: {problem}")
            elif reply.stage == "decode":
                messages += reply.messages
            else:
                return reply
        return DecodeReply(stage="decode", messages=tuple(messages))

    def _ask(self, request: DecodeRequest, stopping: threading.Event) -> tuple[DecodeReply | None, str]:
        deadline = time.monotonic() + self._timeout
        if self._process is None:
            self._start()
            deadline += _START_SECONDS
        assert self._connection is not None and self._process is not None
        try:
            self._connection.send(request)
            while not self._connection.poll(0.2):
                if stopping.is_set():
                    return None, "stopped"
                if time.monotonic() > deadline:
                    self.kill()
                    return None, f"no answer within {self._timeout:g} s (--decode_timeout); its process was killed"
            return self._connection.recv(), ""
        except (EOFError, OSError):
            self._process.join(timeout=5)
            code = self._process.exitcode
            self.kill()
            return None, f"its process died ({_exit_text(code)})"

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child_end = context.Pipe()
        self._process = context.Process(
            target=serve, args=(child_end, *self._arguments), name="clip-decoder", daemon=True
        )
        self._process.start()
        child_end.close()

    def kill(self) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is not None:
            process.kill()
            process.join(timeout=5)
        if connection is not None:
            connection.close()


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"
