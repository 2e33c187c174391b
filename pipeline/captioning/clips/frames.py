"""What every decoder makes of a clip: the frames that a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

MAX_PIXELS = 64 * 2**20
"""Frames beyond this many pixels are refused: no camera makes them, and they would take gigabytes."""


@dataclass(frozen=True)
class SampledFrames:
    """The frames that a model sees.

    images: distinct frames in time order, RGB.
    index: for each sampled frame, in time order, its place in `images`; a still image or a short
        clip has fewer images than sampled frames.
    partial: the file could be decoded in part only; the frames are spread over that part.
    """

    images: tuple[Image.Image, ...]
    index: tuple[int, ...]
    partial: bool = False


def check_size(width: int, height: int) -> None:
    """Raises: ValueError: no pixels, or more than MAX_PIXELS."""
    if width < 1 or height < 1:
        raise ValueError(f"frames of {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"frames of {width}x{height} pixels are beyond {MAX_PIXELS // 2**20} megapixels")


def distinct_frames(indices: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """The different ones of `indices`, in order, and the place of each index among them."""
    distinct = list(dict.fromkeys(indices))
    return distinct, tuple(distinct.index(i) for i in indices)
