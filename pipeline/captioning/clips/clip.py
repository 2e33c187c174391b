"""A clip on its way from the decoding process to the captioner; the one type for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Clip:
    """A row whose frames are ready for the captioner.

    row: index in the meta table.
    frames: what the captioner's FrameTransform made of the distinct frames, first axis frames.
    frame_index: for each sampled frame in time order, its place in `frames`.
    partial: the file could be decoded in part only, and the frames are of that part.
    """

    row: int
    path: str
    frames: np.ndarray
    frame_index: tuple[int, ...]
    partial: bool = False


@dataclass(frozen=True)
class LoadFailure:
    """A row whose clip could not be loaded.

    stage, messages: where it failed, and every message.
    """

    row: int
    path: str
    stage: str
    messages: tuple[str, ...]
