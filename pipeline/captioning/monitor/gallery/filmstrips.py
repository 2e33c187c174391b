"""Makes filmstrips: the sampled frames of a clip, side by side in one small picture.

Clips are decoded in the same way as for captioning, in separate processes: a damaged file can hang or crash such a
process without harm to the command.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...clips.clip import ClipTask, LoadFailure
from ...clips.killable import DecoderLimits
from ...clips.loader import ClipLoader
from ...clips.preparation import FramePreparation
from ...clips.sampling import FrameSampling
from ...clips.time_range import TimeRange

ClipKey: TypeAlias = tuple[str, TimeRange | None]
"""A path, and the part of the file that is the clip; None for the whole file."""
_BITS_PER_PIXEL = 1.2
"""Of WebP at the highest of `_QUALITIES`, for frames with much detail."""
_QUALITIES = (80, 65, 50, 35, 20)
MAX_FRAMES = 16
"""Frames of a filmstrip."""
_LONG_SIDE_LIMITS = (64, 512)
"""Pixels of the longer side of a frame: minimum and maximum. A WebP picture has at most 16,383 pixels a side, enough
for 31 frames of the maximum."""


@dataclass(frozen=True)
class Filmstrip:
    """data: a WebP picture of `frames` frames side by side; each frame has `width` x `height` pixels.

    duration: of the clip, in seconds; 0.0 if it is unknown, and for still images.
    """

    data: bytes
    frames: int
    width: int
    height: int
    duration: float = 0.0


@dataclass(frozen=True)
class FilmstripEncoder:
    """A frame transform: from the distinct frames of a clip to a uint8 array with the bytes of one picture.

    If there are more than MAX_FRAMES frames, the picture shows MAX_FRAMES of them, evenly spaced.

    max_bytes: maximum size of the picture. Only a picture at the smallest size and lowest quality may be larger.
    """

    max_bytes: int
    takes_all_frames: ClassVar[bool] = True

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        images = [
            images[index * len(images) // _frames_shown(len(images))] for index in range(_frames_shown(len(images)))
        ]
        pixels = self.max_bytes * 8 / _BITS_PER_PIXEL / len(images)
        width, height = images[0].size
        shortest, longest = _LONG_SIDE_LIMITS
        long_side = min(max(math.sqrt(pixels * max(width, height) / min(width, height)), shortest), longest)
        while True:
            scale = min(1.0, long_side / max(width, height))
            strip = _side_by_side(images, max(1, round(width * scale)), max(1, round(height * scale)))
            for quality in _QUALITIES:
                file = io.BytesIO()
                strip.save(file, "WEBP", quality=quality)
                if file.tell() <= self.max_bytes:
                    return np.frombuffer(file.getvalue(), np.uint8)
            if long_side <= shortest:
                return np.frombuffer(file.getvalue(), np.uint8)
            long_side = max(shortest, long_side * 0.7)


def _frames_shown(distinct: int) -> int:
    return min(distinct, MAX_FRAMES)


def _side_by_side(images: Sequence[Image.Image], width: int, height: int) -> Image.Image:
    strip = Image.new("RGB", (width * len(images), height))
    for index, image in enumerate(images):
        strip.paste(image.resize((width, height), Image.Resampling.LANCZOS), (index * width, 0))
    return strip


def make_filmstrips(
    clips: Iterable[ClipKey], sampling: FrameSampling, max_bytes: int, limits: DecoderLimits, workers: int
) -> tuple[dict[ClipKey, Filmstrip], dict[ClipKey, str]]:
    """The filmstrips of the clips that can be decoded, and the problems of the other clips.

    clips: may contain a clip several times.
    sampling: which frames of each clip are sampled; a filmstrip shows at most MAX_FRAMES of them.
    max_bytes: maximum size of one filmstrip.
    workers: decoding processes.
    """
    strips: dict[ClipKey, Filmstrip] = {}
    problems: dict[ClipKey, str] = {}
    keys = list(dict.fromkeys(clips))
    tasks = [ClipTask(number, path, part) for number, (path, part) in enumerate(keys)]
    encoder = FilmstripEncoder(max_bytes)
    with (
        tqdm(total=len(tasks), unit="clip", desc="frames", disable=None) as bar,
        ClipLoader(tasks, FramePreparation(sampling, encoder), limits, prefetch=4 * workers, workers=workers) as loader,
    ):
        for clip in loader:
            key = keys[clip.row]
            if isinstance(clip, LoadFailure):
                problems[key] = f"{clip.stage}: " + "; ".join(clip.messages)
            else:
                frames = _frames_shown(max(clip.frame_index) + 1)
                strips[key] = _filmstrip(clip.frames.tobytes(), frames, clip.duration)
            bar.update()
    return {key: strips[key] for key in keys if key in strips}, problems


def _filmstrip(data: bytes, frames: int, duration: float) -> Filmstrip:
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    return Filmstrip(data, frames, width // frames, height, duration)
