"""Which frames a family sees, and how many of them fit into the context of its text model. Framework-free."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ...clips.clip import Clip
from ...clips.frames import scaled_down
from ...clips.sampling import COUNT_RULES, FrameSampling
from ...generation.length_limit import LengthLimit
from ...generation.options import GenerationOptions
from .config_defaults import text_settings
from .family import HubFamily
from .prompts import HubPrompt

_TYPICAL_SIZE = (1280, 720)
"""Width and height of the frames that arithmetic and rehearsals assume."""
_LONGEST_SECONDS = 99_999.99
"""27 hours. Prompts with times up to this one are not longer than that of the typical clip: each digit is a token."""


@dataclass(frozen=True)
class HubFrames:
    """Which frames the model sees.

    sampling: which frames of a clip. short_side: to which size they are scaled before the model's own preprocessing, in
        pixels; 0 for no scaling.
    typical: a clip without content whose prompt is as long as that of an average clip.
    note: for the log.
    """

    sampling: FrameSampling
    short_side: int
    typical: Clip
    note: str = ""


def frames_of(family: HubFamily, sampling: FrameSampling, short_side: int) -> HubFrames:
    """The frames of a sampling; the typical clip has the maximum number of frames, and the longest times."""
    count = sampling.most_frames
    image = scaled_down(Image.new("RGB", _TYPICAL_SIZE), short_side)
    frame = family.frame_transform([image])
    typical = Clip(
        0,
        "",
        np.broadcast_to(frame, (count, *frame.shape[1:])),
        tuple(range(count)),
        seconds=(_LONGEST_SECONDS,) * count,
        duration=_LONGEST_SECONDS,
        size=(image.height, image.width),
        rate=1.0,
    )
    return HubFrames(sampling, short_side, typical)


def frames_that_fit(
    family: HubFamily, prompt: HubPrompt, generation: GenerationOptions, frames: HubFrames
) -> HubFrames:
    """The default number of frames, or the largest number whose prompt and caption are not too long for the model."""
    sampling = frames.sampling
    numbers = range(sampling.multiple, sampling.most_frames + 1, sampling.multiple)

    def limited(number: int) -> HubFrames:
        is_count = sampling.rule in COUNT_RULES
        fewer = replace(sampling, num_frames=number) if is_count else replace(sampling, max_frames=number)
        return frames_of(family, fewer, frames.short_side)

    def too_long(number: int) -> bool:
        return length_problem(family, prompt, limited(number).typical, generation) is not None

    fitting = bisect.bisect_left(numbers, True, key=too_long)
    if fitting in (0, len(numbers)):
        return frames
    return replace(limited(numbers[fitting - 1]), note="more do not fit into the context of the model")


def length_problem(family: HubFamily, prompt: HubPrompt, clip: Clip, generation: GenerationOptions) -> str | None:
    """The message if prompt and caption of a clip are too long for the text model; None if they fit."""
    limit = LengthLimit.from_settings(text_settings(family.config))
    text, visual = sum(map(len, prompt.prompts.pieces(clip))), sum(family.prompt_lengths(clip))
    problem = limit.problem(text + visual, generation.max_new_tokens)
    return problem and f"{problem} ({visual} of the prompt's tokens are visual: fewer frames make fewer of them)"
