"""Videos that tests write with timestamps, codecs and containers of their choice, and what their frames are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from pipeline.captioning.clips.decode import decode_into
from pipeline.captioning.clips.frames import SampledFrames
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.clips.time_range import TimeRange

MILLISECONDS = Fraction(1, 1000)
OPEN_GOP = {"bf": "3", "x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:b-adapt=0"}
"""Options of libx264: every 12th frame is a key frame, and B frames before it need the frames on both sides."""


def write_video(
    path: Path,
    timestamps: Sequence[int],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    rate: int = 25,
    unit: Fraction | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video of frames of 64x48 pixels, no two of which are equal.

    timestamps: of the frames, in units of `unit` seconds; None for 1 / rate.
    """
    unit = unit or Fraction(1, rate)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 12
        stream.time_base = stream.codec_context.time_base = unit
        for number, timestamp in enumerate(timestamps):
            image = np.full((48, 64, 3), 40 + number % 7 * 20, np.uint8)
            image[number % 5 * 9 :][:9, number % 11 * 5 :][:, :9] = (number * 5 % 256, number * 91 % 256, 230)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = timestamp, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frame_times(path: Path) -> list[int]:
    """The times of all frames in milliseconds, from the timestamps of decoded frames."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        timestamps = [frame.pts for frame in container.decode(stream)]
        scale = 1000 * stream.time_base
        return [int((timestamp - timestamps[0]) * scale + Fraction(1, 2)) for timestamp in timestamps]


def sampled_hashes(path: Path, count: int, part: TimeRange | None = None) -> SampledFrames[list[str]]:
    """`count` frames of a file or of a part of it, from the first to the last; a hash of the pixels of each."""

    def hashes(images: Iterable[Image.Image]) -> list[str]:
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]

    return decode_into(hashes, str(path), FrameSampling("uniform", count), ["PyAV"], part=part)
