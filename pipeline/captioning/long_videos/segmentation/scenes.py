"""Find the cuts between scenes with the detectors of PySceneDetect.

The frames come from the project's own decoder, with their real times. PySceneDetect and OpenCV are optional: they are
imported when they are needed. Knows nothing about segments.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from ...process.errors import UsageError

DETECTORS = ("adaptive", "content")
_LONG_SIDE = 256
"""Frames are scaled so that their longer side has this many pixels, as PySceneDetect does."""
_TIMES = Fraction(1, 1000)
"""Unit of the times that the detectors get, in seconds. As a frame rate, it makes their frame numbers milliseconds."""


def check_installed() -> None:
    """Check that the detectors can be imported.

    Raises:
        UsageError: they can't.
    """
    try:
        importlib.import_module("cv2")
        importlib.import_module("scenedetect.detectors")
    except ImportError as error:
        raise UsageError(
            f"--scenes needs PySceneDetect and OpenCV: {error}; install them: pip install -r requirements-scenes.txt"
        ) from error


def find_scenes(frames: Iterable[tuple[int, Any]], detector: str, threshold: float | None, shortest: int) -> list[int]:
    """The times of the first frames of all scenes but the first, ascending, in milliseconds.

    frames: time in milliseconds and picture (a frame of PyAV) of each frame, ascending by time.
    detector: one of DETECTORS.
    threshold: how much frames must differ; None for the detector's own default.
    shortest: cuts that are less than this apart, in milliseconds, are joined or left out, as the detector does it.
    """
    import cv2
    from av.video.reformatter import VideoReformatter
    from scenedetect.common import FrameTimecode, Timecode

    cv2.setNumThreads(1)  # several processes read files in parallel already
    judge = _detector(detector, threshold, shortest)
    reformatter = VideoReformatter()
    size: tuple[int, int] | None = None
    time, cuts = None, []
    for milliseconds, frame in frames:
        # The size of the first frame for all: in some files it changes, and the detectors can't compare two sizes.
        size = size or _reduced(frame.width, frame.height)
        small = reformatter.reformat(frame, size[0], size[1], "bgr24", interpolation="BILINEAR")
        time = FrameTimecode(Timecode(milliseconds, _TIMES), 1 / _TIMES)
        cuts += judge.process_frame(time, small.to_ndarray())
    if time is not None:
        cuts += judge.post_process(time)
    return sorted({round(cut.seconds / float(_TIMES)) for cut in cuts})


def _detector(name: str, threshold: float | None, shortest: int) -> Any:
    from scenedetect.detectors import AdaptiveDetector, ContentDetector

    if name == "adaptive":
        given = {} if threshold is None else {"adaptive_threshold": threshold}
        return AdaptiveDetector(min_scene_len=shortest, **given)
    given = {} if threshold is None else {"threshold": threshold}
    return ContentDetector(min_scene_len=shortest, **given)


def _reduced(width: int, height: int) -> tuple[int, int]:
    factor = min(1.0, _LONG_SIDE / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))
