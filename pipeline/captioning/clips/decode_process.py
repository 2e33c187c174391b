"""The decoding process: takes paths, gives prepared frames back. A child of the worker that can be killed.

Imports no framework: it runs `decode` and the captioner's frame transform, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .decode import DecodeError, check_path, decode
from .frame_memory import FrameMemory, FramesInMemory


@dataclass(frozen=True)
class DecodeRequest:
    """path: of the clip. decoder: name of the one to use."""

    path: str
    decoder: str


@dataclass(frozen=True)
class DecodeReply:
    """Either prepared frames, in the FrameMemory, and their index, or the stage that failed and every message.

    partial: see `SampledFrames`.
    """

    frames: FramesInMemory | None = None
    frame_index: tuple[int, ...] = ()
    partial: bool = False
    stage: str = ""
    messages: tuple[str, ...] = ()


def answer(
    request: DecodeRequest,
    memory: FrameMemory,
    num_frames: int,
    frame_transform: Callable[[Sequence[Image.Image]], np.ndarray],
) -> DecodeReply:
    """Decode one clip with one decoder; the prepared frames go into `memory`."""
    try:
        check_path(request.path)
    except DecodeError as error:
        return DecodeReply(stage="path", messages=error.messages)
    try:
        sampled = decode(request.path, num_frames, [request.decoder])
    except DecodeError as error:
        return DecodeReply(stage="decode", messages=error.messages)
    try:
        frames = memory.put(frame_transform(sampled.images))
        return DecodeReply(frames=frames, frame_index=sampled.index, partial=sampled.partial)
    except Exception as error:  # whatever a transform may raise costs this clip alone
        return DecodeReply(stage="prepare", messages=(f"{type(error).__name__}: {error}",))
