"""What the loader gives to the captioner: a clip with its frames, or the reason why it could not be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .time_range import TimeRange


class ClipTask(NamedTuple):
    """What the loader needs to load a clip.

    row: index in the meta table.
    path: of a local file, or a URL.
    range: the part of the file that is the clip; None for the whole file.
    """

    row: int
    path: str
    range: TimeRange | None = None


@dataclass(frozen=True)
class Clip:
    """A row whose frames are ready for the captioner.

    row: index in the meta table.
    frames: the output of the captioner's FrameTransform for the distinct frames; the first axis is the frame. If
        `mime_type` is not empty: the bytes of the file, uint8 (bytes,).
    frame_index: for each sampled frame, in time order, its index in `frames`.
    partial: only a part of the file could be decoded; the frames are from that part.
    seconds: the time of each sampled frame, its index in the video / frame rate; zeros if the rate is unknown.
    duration: seconds, number of frames of the video / frame rate; 0.0 if the rate is unknown, and for still images.
    size: (height, width) in pixels of the first frame that the FrameTransform got.
    rate: frames of the video per second; 0.0 if it is unknown, and for still images.
    is_image: the file is a still image.
    range: the part of the file that the clip is; None for the whole file. `seconds` and `duration` are those of a file
        that begins and ends with the range.
    mime_type: of the file of a video that is not decoded (`FramePreparation.sends_file`), for example `video/mp4`; then
        `frame_index`, `seconds`, `duration`, `size` and `rate` are empty or zero. Empty if `frames` are frames.
    """

    row: int
    path: str
    frames: np.ndarray
    frame_index: tuple[int, ...]
    partial: bool = False
    seconds: tuple[float, ...] = ()
    duration: float = 0.0
    size: tuple[int, int] = (0, 0)
    rate: float = 0.0
    is_image: bool = False
    mime_type: str = ""
    range: TimeRange | None = None


@dataclass(frozen=True)
class LoadFailure:
    """A row whose clip could not be loaded.

    stage: the step that failed (`path`, `download`, `decode` or `prepare`).
    messages: every message, in the order in which they occurred.
    """

    row: int
    path: str
    stage: str
    messages: tuple[str, ...]
