"""Small clips whose frames show which clip and which frame they are: light and dark blocks that survive any encoding.

A program that sees the frames of a clip can so tell which ones it was given, and in which order. Knows nothing about
models and services.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = (96, 64)
"""Width and height of a frame, in pixels."""
FRAMES = 8
_BLOCKS = 4
_FRAME_BITS = 5
_LIGHT, _DARK = 220, 40
MAX_CLIPS = 1 << (_BLOCKS * _BLOCKS - _FRAME_BITS)


def code_of(clip: int, frame: int) -> int:
    """The 16 bits that a frame shows. clip: 0 to MAX_CLIPS - 1. frame: 0 to 31."""
    assert 0 <= clip < MAX_CLIPS and 0 <= frame < 1 << _FRAME_BITS
    return clip << _FRAME_BITS | frame


def coded_image(code: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """An image with 4 x 4 blocks: a light one for each bit of `code` that is set. size: width and height in pixels."""
    bits = np.array([code >> number & 1 for number in range(_BLOCKS * _BLOCKS)], bool).reshape(_BLOCKS, _BLOCKS)
    small = Image.fromarray(np.where(bits, _LIGHT, _DARK).astype(np.uint8))
    return small.resize(size, Image.Resampling.NEAREST).convert("RGB")


def read_code(image: Image.Image) -> int:
    """The code that an image shows. Any image has one: which of its 4 x 4 blocks are lighter than grey."""
    blocks = np.asarray(image.convert("L").resize((_BLOCKS, _BLOCKS), Image.Resampling.BOX))
    return sum(1 << number for number, value in enumerate(blocks.flat) if value > (_LIGHT + _DARK) // 2)


def render_coded_clip(path: Path, clip: int, frames: int = FRAMES) -> Path:
    """Write a video of `frames` frames, 8 per second, that show `code_of(clip, frame)`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for frame in range(frames):
            image = av.VideoFrame.from_image(coded_image(code_of(clip, frame)))
            for packet in stream.encode(image):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
