"""Decode images with Pillow: still images, and animated GIF, WebP and PNG as clips.

A clip's frames are sampled by time: each frame of an animation has a duration of its own. Knows nothing about other
decoders.
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, ImageFile

from .frames import Collect, Frames, SampledFrames, check_size, distinct_frames, known_rate, scaled_down
from .rgb import upright_rgb
from .sampling import FrameSampling
from .time_range import TimeRange

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "AVIF")
"""The formats that Pillow may read. It can read others, but for EPS it starts Ghostscript."""
_ANIMATED = ("WEBP", "PNG")
"""Clips if they have several frames; GIF always is a clip. The pages of TIFF and the views of MPO are no frames."""
_SHORTEST_MS, _DEFAULT_MS = 10.0, 100.0
"""Browsers show frames of at most 10 ms for 100 ms."""


@dataclass(frozen=True)
class _Timeline:
    """When the frames of an animation are shown.

    first: number of its first frame in the file.
    starts: time of each frame in milliseconds, ascending. duration: of the animation, in milliseconds.
    is_partial: a frame can't be decoded, or a range has an end that the animation does not reach. The other fields
        describe the frames before.
    """

    first: int
    starts: tuple[float, ...]
    duration: float
    is_partial: bool

    def frame_at(self, time: float) -> int:
        """Number in the file of the frame that is shown at a time in milliseconds."""
        return self.first + bisect_right(self.starts, time + 1e-6) - 1

    def cut_to(self, part: TimeRange) -> _Timeline:
        """The frames that begin in a range; if there are none, the one that is shown at its start.

        Raises:
            ValueError: the range begins after the end of the animation.
        """
        end = math.floor(self.duration + 0.5)
        part.check_begin(end, "the part of the animation that can be decoded" if self.is_partial else "the animation")
        # As of videos: times are rounded half up.
        chosen = [number for number, start in enumerate(self.starts) if part.contains(math.floor(start + 0.5))]
        chosen = chosen or [bisect_right(self.starts, part.start) - 1]
        begin = self.starts[chosen[0]]
        ends = (*self.starts[1:], self.duration)
        starts = tuple(self.starts[number] - begin for number in chosen)
        is_damaged = self.is_partial and (part.end is None or part.end > end)
        is_partial = is_damaged or part.is_longer_than(end, 1000 * len(self.starts) / self.duration)
        return _Timeline(self.first + chosen[0], starts, ends[chosen[-1]] - begin, is_partial)


def decode_pil(
    path: str,
    sampling: FrameSampling,
    short_side: int,
    collect: Collect[Frames],
    collect_image: Collect[Frames],
    part: TimeRange | None = None,
) -> SampledFrames[Frames]:
    """Read a still image, which has one frame whatever the sampling, or sample frames of an animated image.

    An animation is sampled as a video whose constant rate is its number of frames / duration. If it is damaged, the
    frames are spread over the part before the damage. A still image that is truncated fails.

    short_side: larger frames are scaled so that their shorter side has this many pixels; 0 for no scaling.
    collect: gets the scaled frames of an animation. collect_image: gets that of a still image.
    part: the range of the animation to sample, as if it were a file of its own; None for all of it.

    Raises:
        ValueError: the image is too large; a still image has a range, or the range begins after the end of the
            animation. Exception: any error of Pillow.
    """
    with _opened(path) as image:
        if is_animation(image):
            return _animation(image, sampling, short_side, collect, part)
        if part is not None:
            raise ValueError("a still image has no time range; leave start and end blank")
        frames = collect_image([scaled_down(upright_rgb(image), short_side)])
        return SampledFrames(frames, (0,), rate=0.0, total_frames=1, is_image=True)


def is_animation(image: ImageFile.ImageFile) -> bool:
    """Whether an opened image is a clip, not a still image."""
    return image.format == "GIF" or (image.format in _ANIMATED and getattr(image, "n_frames", 1) > 1)


@contextmanager
def _opened(path: str) -> Iterator[ImageFile.ImageFile]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # broken metadata, and a limit of pixels that we have ourselves
        with Image.open(path, formats=FORMATS) as image:
            check_size(*image.size)
            yield image


def _animation(
    image: ImageFile.ImageFile,
    sampling: FrameSampling,
    short_side: int,
    collect: Collect[Frames],
    part: TimeRange | None,
) -> SampledFrames[Frames]:
    timeline = _timeline(image)
    if part is not None:
        timeline = timeline.cut_to(part)
    total = len(timeline.starts)
    rate = known_rate(1000 * total / timeline.duration)
    positions = sampling.indices(total, rate)

    def images() -> Iterator[Image.Image]:
        for position in distinct_frames(positions)[0]:
            image.seek(timeline.frame_at(position * timeline.duration / total))
            yield scaled_down(upright_rgb(image), short_side)

    return SampledFrames(collect(images()), tuple(positions), rate, total, timeline.is_partial)


def _timeline(image: ImageFile.ImageFile) -> _Timeline:
    """Decodes all frames once, because some formats have the duration of a frame with its pixels."""
    # An animated PNG may have an image for programs that do not know animations; it is not part of the animation.
    first = 1 if getattr(image, "default_image", False) else 0
    starts: list[float] = []
    end = 0.0
    for number in range(first, getattr(image, "n_frames", 1)):
        try:
            image.seek(number)
            image.load()
        except Exception:  # Pillow raises errors of many types
            if number == first:
                raise
            return _Timeline(first, tuple(starts), end, is_partial=True)
        duration = float(image.info.get("duration") or 0.0)
        starts.append(end)
        end += duration if duration > _SHORTEST_MS else _DEFAULT_MS
    return _Timeline(first, tuple(starts), end, is_partial=False)
