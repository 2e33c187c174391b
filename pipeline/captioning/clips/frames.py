"""The sampled frames of a clip, in the form that every decoder returns, and the limit on their size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

MAX_PIXELS = 64 * 2**20
"""Frames with more pixels are refused: no camera makes them, and they would need gigabytes of memory."""


@dataclass(frozen=True)
class SampledFrames:
    """The frames that the model sees.

    images: the distinct frames in time order, RGB.
    index: for each sampled frame, in time order, its index in `images`. A still image or a short clip has fewer
        images than sampled frames.
    partial: only a part of the file could be decoded; the frames are spread over that part.
    """

    images: tuple[Image.Image, ...]
    index: tuple[int, ...]
    partial: bool = False


def check_size(width: int, height: int) -> None:
    """Check the size of a frame in pixels.

    Raises:
        ValueError: no pixels, or more than MAX_PIXELS.
    """
    if width < 1 or height < 1:
        raise ValueError(f"frames of {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"frames of {width}x{height} pixels are larger than {MAX_PIXELS // 2**20} megapixels")


def distinct_frames(indices: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """The distinct values of `indices`, in order, and for each of `indices` its position among them."""
    distinct = list(dict.fromkeys(indices))
    return distinct, tuple(distinct.index(i) for i in indices)
