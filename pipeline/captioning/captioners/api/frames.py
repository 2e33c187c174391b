"""Prepares what is sent of a clip, in the decoding processes: frames as JPEG, or the file itself.

Knows nothing about requests. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class JpegFrames:
    """A FrameTransform: encodes frames as JPEG, scaled to a longer side of at most `max_side` pixels.

    Returns one array of bytes (uint8, one axis) for each frame: its length in four bytes, little endian, and its JPEG.
    `jpegs` takes the joined arrays of a clip apart.
    """

    max_side: int
    quality: int
    makes_bytes: bool = True

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        raise NotImplementedError


def jpegs(frames: np.ndarray) -> list[bytes]:
    """The JPEGs of a clip's distinct frames, in time order."""
    raise NotImplementedError
