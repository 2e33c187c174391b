"""How the frames of a clip are chosen and prepared: what a decoding process has to know besides the path."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .sampling import FrameSampling

FrameTransform = Callable[[Sequence[Image.Image]], np.ndarray]
"""Converts distinct frames to the captioner's input array, whose first axis is the frame.

The result for a frame must not depend on the other frames: a decoding process (`decode_server.py`) passes each frame
of a clip as soon as it is decoded. A transform with the attribute `takes_all_frames` gets all frames at once. One with
the attribute `makes_bytes` returns bytes (uint8, one axis), any number of them for a frame; those of all frames are
joined. Runs in the decoding process, so it must be picklable and must not import the framework.
"""


class ImageRole(enum.Enum):
    """What a still image is in its prompt: the only image, one of several images, or a frame of a video."""

    ALONE = enum.auto()
    ONE_OF_SEVERAL = enum.auto()
    FRAME = enum.auto()


@dataclass(frozen=True)
class FramePreparation:
    """How the frames of every clip of a run are chosen and prepared. Picklable.

    sampling: which frames of each clip are sampled.
    transform: prepares the frames of a video.
    short_side: larger frames are scaled before the transform so that their shorter side has this many pixels; 0 for no
        scaling.
    image_transform: prepares a still image; None for `transform`, as a clip of one frame.
    sends_file: the file of a video takes the place of its frames, see `Clip.mime_type`. It is not decoded, so a damaged
        one is not found. Images and animations are decoded and transformed.
    several_transform: prepares a still image that is one of several in a prompt; None if it is prepared as one that is
        alone.
    """

    sampling: FrameSampling
    transform: FrameTransform
    short_side: int = 0
    image_transform: FrameTransform | None = None
    sends_file: bool = False
    several_transform: FrameTransform | None = None

    def transform_of_image(self, role: ImageRole) -> FrameTransform:
        """The transform that prepares a still image."""
        if role is ImageRole.FRAME:
            return self.transform
        own = self.several_transform if role is ImageRole.ONE_OF_SEVERAL else None
        return own or self.image_transform or self.transform
