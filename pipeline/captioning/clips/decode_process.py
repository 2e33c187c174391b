"""The decoding process: takes paths, gives prepared frames back. A child of the worker that can be killed.

Imports no framework: it runs `decode` and the captioner's frame transform, nothing else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from PIL import Image

from ..orphans import die_with_parent
from .decode import DecodeError, check_path, decode
from .frame_memory import FrameMemory, FramesInMemory


@dataclass(frozen=True)
class DecodeRequest:
    """path: of the clip. decoder: name of the one to use."""

    path: str
    decoder: str


@dataclass(frozen=True)
class DecodeReply:
    """Either prepared frames, in the FrameMemory, and their index, or the stage that failed and every message."""

    frames: FramesInMemory | None = None
    frame_index: tuple[int, ...] = ()
    stage: str = ""
    messages: tuple[str, ...] = ()


def serve(
    connection: Connection,
    memory: FrameMemory,
    num_frames: int,
    frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
) -> None:
    """Answer requests until the other end closes; first say that all is imported."""
    die_with_parent(os.getppid())  # a hung decoder would never see the closed pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the worker decides
    mute_native_output()
    connection.send(None)
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_answer(request, memory, num_frames, frame_transform))


def _answer(
    request: DecodeRequest,
    memory: FrameMemory,
    num_frames: int,
    frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
) -> DecodeReply:
    try:
        check_path(request.path)
    except DecodeError as error:
        return DecodeReply(stage="path", messages=error.messages)
    try:
        sampled = decode(request.path, num_frames, [request.decoder])
    except DecodeError as error:
        return DecodeReply(stage="decode", messages=error.messages)
    try:
        return DecodeReply(frames=memory.put(frame_transform(sampled.images)), frame_index=sampled.index)
    except Exception as error:  # whatever a transform may raise costs this clip alone
        return DecodeReply(stage="prepare", messages=(f"{type(error).__name__}: {error}",))


def mute_native_output() -> None:
    """FFmpeg writes to the terminal; what matters of it is in the exceptions."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
