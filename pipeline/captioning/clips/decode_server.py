"""Handle a request of the worker: decode one clip and prepare its frames. Runs in the decoding process.

The worker uses the types of the messages. This file imports no framework and knows nothing about how the process is
started, limited and killed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .decode import DecodeError, check_path, decode
from .frame_memory import FrameMemory, FramesInMemory
from .sampling import FrameSampling


@dataclass(frozen=True)
class DecodeRequest:
    """From the worker to the decoding process: the path of a clip and the name of one decoder."""

    path: str
    decoder: str


@dataclass(frozen=True)
class DecodeReply:
    """From the decoding process to the worker: prepared frames, or the reason why there are none.

    frames: shape and dtype of the prepared frames, which are in the FrameMemory; None if a stage failed.
    frame_index, partial, seconds, duration, size, rate: as in `Clip`.
    stage, messages: the stage that failed and every message; empty if none failed.
    """

    frames: FramesInMemory | None = None
    frame_index: tuple[int, ...] = ()
    partial: bool = False
    seconds: tuple[float, ...] = ()
    duration: float = 0.0
    size: tuple[int, int] = (0, 0)
    rate: float = 0.0
    stage: str = ""
    messages: tuple[str, ...] = ()


def handle_request(
    request: DecodeRequest,
    memory: FrameMemory,
    sampling: FrameSampling,
    frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
    short_side: int,
) -> DecodeReply:
    """Decode one clip with one decoder, and write the prepared frames into `memory`."""
    try:
        check_path(request.path)
    except DecodeError as error:
        return DecodeReply(stage="path", messages=error.messages)
    try:
        sampled = decode(request.path, sampling, [request.decoder], short_side)
    except DecodeError as error:
        return DecodeReply(stage="decode", messages=error.messages)
    try:
        frames = memory.put(frame_transform(sampled.images))
        return DecodeReply(
            frames=frames,
            frame_index=sampled.index,
            partial=sampled.partial,
            seconds=sampled.seconds,
            duration=sampled.duration,
            size=sampled.size,
            rate=sampled.rate,
        )
    except Exception as error:  # a transform may raise any error; only this clip fails
        return DecodeReply(stage="prepare", messages=(f"{type(error).__name__}: {error}",))
