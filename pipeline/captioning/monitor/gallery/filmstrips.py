"""Filmstrips: the sampled frames of a clip side by side in one small picture.

Clips are decoded as for captioning, in processes that a broken file may hang or kill.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...clips.clip import LoadFailure
from ...clips.killable import DecoderLimits
from ...clips.loader import ClipLoader

_BITS_PER_PIXEL = 1.2
"""Of WebP at the best quality below, on frames of a busy scene."""
_QUALITIES = (80, 65, 50, 35, 20)
MOST_FRAMES = 16
_LONG_SIDE = (64, 512)
"""Pixels of the longer side of a frame: the least and the most. WebP bears 16,383 pixels: 31 frames."""


@dataclass(frozen=True)
class Filmstrip:
    """data: a WebP picture of `frames` frames side by side, each of width x height pixels."""

    data: bytes
    frames: int
    width: int
    height: int


@dataclass(frozen=True)
class FilmstripEncoder:
    """A frame transform: distinct frames, MOST_FRAMES of them, to a uint8 array of the bytes of one picture.

    most_bytes: the picture takes no more, unless its smallest form does.
    """

    most_bytes: int

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        images = [images[number * len(images) // _shown(len(images))] for number in range(_shown(len(images)))]
        pixels = self.most_bytes * 8 / _BITS_PER_PIXEL / len(images)
        width, height = images[0].size
        least, most = _LONG_SIDE
        long_side = min(max(math.sqrt(pixels * max(width, height) / min(width, height)), least), most)
        while True:
            scale = min(1.0, long_side / max(width, height))
            strip = _side_by_side(images, max(1, round(width * scale)), max(1, round(height * scale)))
            for quality in _QUALITIES:
                file = io.BytesIO()
                strip.save(file, "WEBP", quality=quality)
                if file.tell() <= self.most_bytes:
                    return np.frombuffer(file.getvalue(), np.uint8)
            if long_side <= least:
                return np.frombuffer(file.getvalue(), np.uint8)
            long_side = max(least, long_side * 0.7)


def _shown(distinct: int) -> int:
    return min(distinct, MOST_FRAMES)


def _side_by_side(images: Sequence[Image.Image], width: int, height: int) -> Image.Image:
    strip = Image.new("RGB", (width * len(images), height))
    for number, image in enumerate(images):
        strip.paste(image.resize((width, height), Image.Resampling.LANCZOS), (number * width, 0))
    return strip


def make_filmstrips(
    paths: Sequence[str], num_frames: int, most_bytes: int, limits: DecoderLimits, workers: int
) -> tuple[dict[str, Filmstrip], dict[str, str]]:
    """The filmstrip of each clip that can be decoded, and what is wrong with the others, by path.

    num_frames: sampled of each clip, of which a filmstrip has at most MOST_FRAMES.
    """
    strips: dict[str, Filmstrip] = {}
    problems: dict[str, str] = {}
    clips = list(enumerate(dict.fromkeys(paths)))
    encoder = FilmstripEncoder(most_bytes)
    with (
        tqdm(total=len(clips), unit="clip", desc="frames", disable=None) as bar,
        ClipLoader(clips, num_frames, encoder, limits, prefetch=4 * workers, workers=workers) as loader,
    ):
        for clip in loader:
            if isinstance(clip, LoadFailure):
                problems[clip.path] = f"{clip.stage}: " + "; ".join(clip.messages)
            else:
                strips[clip.path] = _filmstrip(clip.frames.tobytes(), _shown(max(clip.frame_index) + 1))
            bar.update()
    return {path: strips[path] for _, path in clips if path in strips}, problems


def _filmstrip(data: bytes, frames: int) -> Filmstrip:
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    return Filmstrip(data, frames, width // frames, height)
