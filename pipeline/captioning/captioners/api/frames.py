"""Prepares what is sent of a clip, in the decoding processes: frames as JPEG. Files of videos are sent as they are.

Knows nothing about requests. Imports no framework.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

_LENGTH_BYTES = 4


@dataclass(frozen=True)
class JpegFrames:
    """A FrameTransform: encodes frames as JPEG, scaled to a longer side of at most `max_side` pixels.

    Returns one array of bytes (uint8, one axis) for each frame: its length in four bytes, little endian, and its JPEG.
    `jpegs` takes the joined arrays of a clip apart. The aspect ratio is kept, and no frame is enlarged.
    """

    max_side: int
    quality: int
    makes_bytes: bool = True

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        encoded = [self._jpeg(image) for image in images]
        joined = b"".join(len(jpeg).to_bytes(_LENGTH_BYTES, "little") + jpeg for jpeg in encoded)
        return np.frombuffer(joined, np.uint8)

    def _jpeg(self, image: Image.Image) -> bytes:
        file = io.BytesIO()
        # Pillow would copy a comment of the original file, which is not for the service.
        self._scaled(image).convert("RGB").save(file, "JPEG", quality=self.quality, comment=b"")
        return file.getvalue()

    def _scaled(self, image: Image.Image) -> Image.Image:
        longer = max(image.size)
        if longer <= self.max_side:
            return image
        width, height = (max(1, round(side * self.max_side / longer)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)


def jpegs(frames: np.ndarray) -> list[bytes]:
    """The JPEGs of a clip's distinct frames, in time order.

    frames: `Clip.frames` as `JpegFrames` made them.

    Raises:
        ValueError: they were made by something else, or are incomplete.
    """
    if frames.dtype != np.uint8 or frames.ndim != 1:
        raise ValueError(f"no joined JPEGs, but an array of {frames.dtype} with the shape {frames.shape}")
    data = frames.tobytes()
    found, position = [], 0
    while position < len(data):
        begin = position + _LENGTH_BYTES
        position = begin + int.from_bytes(data[position:begin], "little")
        if position > len(data) or position == begin:
            raise ValueError(f"joined JPEGs of {len(data)} bytes do not end where the length of one says")
        found.append(data[begin:position])
    return found
