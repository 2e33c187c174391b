"""The sampled frames of a clip, in the form that every decoder returns, the limit on their size, and their scaling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from PIL import Image

MAX_PIXELS = 64 * 2**20
"""Frames with more pixels are refused: no camera makes them, and they would need gigabytes of memory."""


Frames = TypeVar("Frames")
Collect = Callable[[Iterable[Image.Image]], Frames]
"""What becomes of the distinct frames of a clip, in time order, RGB: `tuple` keeps all of them. A decoder makes each
image when it is requested. It may call the function again from the first frame on, if decoding starts again."""


@dataclass(frozen=True)
class SampledFrames(Generic[Frames]):
    """The frames that the model sees.

    images: what a `Collect` function made of the distinct frames, in time order, RGB. A short clip has fewer distinct
        frames than sampled frames.
    positions: for each sampled frame, in time order, its index in the video.
    rate: average number of frames of the video per second; 0.0 if it is unknown, and for still images.
    total_frames: number of frames of the video, or of the part that can be decoded.
    partial: only a part of the file could be decoded; the frames are spread over that part.
    is_image: the file is a still image, which has one frame.
    """

    images: Frames
    positions: tuple[int, ...]
    rate: float
    total_frames: int
    partial: bool = False
    is_image: bool = False

    @property
    def index(self) -> tuple[int, ...]:
        """For each sampled frame, in time order, its index among the distinct frames."""
        return distinct_frames(self.positions)[1]

    @property
    def seconds(self) -> tuple[float, ...]:
        """The time of each sampled frame, position / rate; zeros if the rate is unknown."""
        return tuple(position / self.rate if self.rate else 0.0 for position in self.positions)

    @property
    def duration(self) -> float:
        """Seconds, total_frames / rate; 0.0 if the rate is unknown."""
        return self.total_frames / self.rate if self.rate else 0.0

    @property
    def size(self: SampledFrames[tuple[Image.Image, ...]]) -> tuple[int, int]:
        """(height, width) of the first image in pixels."""
        return self.images[0].height, self.images[0].width


def check_size(width: int, height: int) -> None:
    """Check the size of a frame in pixels.

    Raises:
        ValueError: no pixels, or more than MAX_PIXELS.
    """
    if width < 1 or height < 1:
        raise ValueError(f"frames of {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"frames of {width}x{height} pixels are larger than {MAX_PIXELS // 2**20} megapixels")


def scaled_down(image: Image.Image, short_side: int) -> Image.Image:
    """The image with a shorter side of `short_side` pixels and the same aspect ratio; bicubic (PIL).

    An image is never enlarged. 0: no scaling. The longer side is rounded half to even.
    """
    width, height = image.size
    shorter = min(width, height)
    if not 0 < short_side < shorter:
        return image
    size = tuple(round(side * short_side / shorter) for side in (width, height))
    return image.resize((size[0], size[1]), Image.Resampling.BICUBIC)


def known_rate(rate: float | None) -> float:
    """A frame rate as a decoder gives it; 0.0 if it is unknown (None, not finite or not positive)."""
    return float(rate) if rate and 0 < rate < math.inf else 0.0


def distinct_frames(indices: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    """The distinct values of `indices`, in order, and for each of `indices` its position among them."""
    distinct = list(dict.fromkeys(indices))
    return distinct, tuple(distinct.index(i) for i in indices)
