"""A video joined from rendered clips of the synthetic world, with the time and the true caption of each part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np

from scripts.clip_world import ClipFormat, RenderedClip
from scripts.scenes import random_scene

RATE = 12
"""Frames per second. A frame is shown for 83.333… ms, so that most cuts are not at whole milliseconds."""
_FORMAT = ClipFormat(width=160, height=120, rate=RATE, frames=0, codec="libx264", quality=20, noise=2.0)
_FEWEST_FRAMES, _MOST_FRAMES = 18, 40


def joined_video(path: Path, clips: int = 10, seed: int = 1) -> list[tuple[float, float, str]]:
    """Write an MP4 file (H.264 with B-frames) of random clips one after another, and return its parts.

    Neighbours have different backgrounds. The encoder alone chooses the key frames, so parts begin anywhere.

    Returns:
        For each clip its start and end in seconds, as exactly as a float can be, and its caption.
    """
    parts, frames = [], 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream(_FORMAT.codec, rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = _FORMAT.width, _FORMAT.height, "yuv420p"
        stream.thread_count = 1
        stream.options = {"crf": str(_FORMAT.quality), "preset": "veryfast"}
        for clip in islice(_neighbours_differ(seed), clips):
            for image in clip.frames():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            end = frames + clip.format.frames
            parts.append((frames / RATE, end / RATE, clip.shown.caption()))
            frames = end
        container.mux(stream.encode())
    return parts


def _neighbours_differ(seed: int) -> Iterator[RenderedClip]:
    """Random clips without end; each has another background than the one before it."""
    rng = np.random.default_rng([seed, 18])
    background, number = "", 0
    while True:
        scene = random_scene(rng)
        if scene.background == background:
            continue
        frames = int(rng.integers(_FEWEST_FRAMES, _MOST_FRAMES + 1))
        yield RenderedClip(scene, replace(_FORMAT, frames=frames), (seed, number, 18))
        background, number = scene.background, number + 1
