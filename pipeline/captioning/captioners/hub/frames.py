"""Which frames a family sees, and how many of them fit into the context of its text model. Framework-free."""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ...clips.clip import Clip
from ...clips.frames import scaled_down
from ...clips.sampling import COUNT_RULES, FrameSampling
from ...generation.length_limit import FLAGS, LengthLimit
from ...generation.options import GenerationOptions
from ..images.base import ImageTransform
from .config_defaults import text_settings
from .family import HubFamily
from .prompts import HubPrompt

_HEIGHT = 720
_ASPECT_RATIOS = (1, 4 / 3, 3 / 2, 16 / 9, 2, 3)
"""Common videos, also upright: the number of visual tokens may depend on the size of the frames."""
_IMAGE_HEIGHT = 1440
"""Still images are larger than frames, and families with many tiles see more of a larger image."""
_LONGEST_SECONDS = 99_999.99
"""27 hours. Prompts with times up to this one are not longer than that of the longest clip: each digit is a token."""


@dataclass(frozen=True)
class HubFrames:
    """Which frames the model sees.

    sampling: which frames of a clip. short_side: to which size they are scaled before the model's own preprocessing, in
        pixels; 0 for no scaling.
    longest: a clip without content, with the longest prompt of all clips of common sizes. Still images are not among
        them; see `largest_clip`.
    note: for the log.
    """

    sampling: FrameSampling
    short_side: int
    longest: Clip
    note: str = ""


def frames_of(family: HubFamily, sampling: FrameSampling, short_side: int) -> HubFrames:
    """The frames of a sampling; the longest clip has the maximum number of frames, and the longest times."""
    frames = (_frame(family, size, short_side) for size in _sizes(_HEIGHT))
    frame = max(frames, key=lambda clip: sum(family.prompt_lengths(clip)))
    return HubFrames(sampling, short_side, _repeated(frame, sampling.most_frames))


def largest_clip(
    family: HubFamily, prompt: HubPrompt, generation: GenerationOptions, longest: Clip, short_side: int
) -> Clip:
    """The longest clip, or a still image of a common size without content, if its prompt is longer.

    Images whose prompts do not fit into the context of the model are left out: they fail alone.

    longest: the longest clip of frames.
    """
    if family.image_transform is None:  # an image is one frame
        return longest
    images = (_still_image(family, size, short_side) for size in _sizes(_IMAGE_HEIGHT))
    fitting = [image for image in images if length_problem(family, prompt, image, generation) is None]
    return max([longest, *fitting], key=lambda clip: sum(family.prompt_lengths(clip)))


def first_frame(clip: Clip) -> Clip:
    """The first frame of a clip as a still image."""
    return replace(
        clip, frames=clip.frames[:1], frame_index=(0,), seconds=(0.0,), duration=0.0, rate=0.0, is_image=True
    )


def _sizes(height: int) -> list[tuple[int, int]]:
    """(width, height) in pixels of frames and images of common shapes whose shorter side is `height`."""
    sizes = [(round(height * ratio), height) for ratio in _ASPECT_RATIOS]
    return sizes + [(height, width) for width, height in sizes]


def _frame(family: HubFamily, size: tuple[int, int], short_side: int) -> Clip:
    """A clip of one frame of zeros. size: (width, height) in pixels."""
    clip = _prepared(family.frame_transform, size, short_side)
    return replace(clip, seconds=(_LONGEST_SECONDS,), duration=_LONGEST_SECONDS, rate=1.0)


def _still_image(family: HubFamily, size: tuple[int, int], short_side: int) -> Clip:
    """An image of zeros. size: (width, height) in pixels."""
    clip = _prepared(family.image_transform or family.frame_transform, size, short_side)
    return replace(clip, seconds=(0.0,), is_image=True)


def _prepared(transform: ImageTransform, size: tuple[int, int], short_side: int) -> Clip:
    shape, image_size = _prepared_shape(transform, size, short_side)
    return Clip(0, "", np.zeros(shape, np.uint8), (0,), size=image_size)


@functools.lru_cache(maxsize=256)
def _prepared_shape(
    transform: ImageTransform, size: tuple[int, int], short_side: int
) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The shape of a prepared image of this (width, height), and the (height, width) that it has before the transform.

    Known ones are kept: a process may load a checkpoint again, and transforms of large images take long.
    """
    image = scaled_down(Image.new("RGB", size), short_side)
    return transform([image]).shape, (image.height, image.width)


def _repeated(clip: Clip, count: int) -> Clip:
    """A clip of one frame as a clip of `count` frames; the frames are views of the same memory."""
    frames = np.broadcast_to(clip.frames[:1], (count, *clip.frames.shape[1:]))
    return replace(clip, frames=frames, frame_index=tuple(range(count)), seconds=clip.seconds[:1] * count)


def frames_that_fit(
    family: HubFamily, prompt: HubPrompt, generation: GenerationOptions, frames: HubFrames
) -> HubFrames:
    """The default number of frames, or the largest number whose prompt and caption are not too long for the model."""
    sampling = frames.sampling
    numbers = range(sampling.multiple, sampling.most_frames + 1, sampling.multiple)

    def limited(number: int) -> HubFrames:
        is_count = sampling.rule in COUNT_RULES
        fewer = replace(sampling, num_frames=number) if is_count else replace(sampling, max_frames=number)
        return replace(frames, sampling=fewer, longest=_repeated(frames.longest, fewer.most_frames))

    def too_long(number: int) -> bool:
        return length_problem(family, prompt, limited(number).longest, generation) is not None

    fitting = bisect.bisect_left(numbers, True, key=too_long)
    if fitting in (0, len(numbers)):
        return frames
    return replace(limited(numbers[fitting - 1]), note="more do not fit into the context of the model")


def length_problem(family: HubFamily, prompt: HubPrompt, clip: Clip, generation: GenerationOptions) -> str | None:
    """The message if the longest prompt of a clip and its caption are too long for the text model; None if they fit."""
    limit = LengthLimit.from_settings(text_settings(family.config))
    text, visual = prompt.prompts.most_tokens(clip), sum(family.prompt_lengths(clip))
    problem = limit.problem(text + visual, generation.max_new_tokens)
    return problem and f"{problem}{FLAGS}; {visual} of the prompt's tokens are visual"
