"""The interface of a captioner: what the job needs of a model family, and no more.

Adding a family means a package beside `pllava` with these two classes, and a command.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..backends import Backend

FrameTransform = Callable[[Sequence[Image.Image]], np.ndarray]
"""From distinct frames to what the captioner wants of them, as one array. Runs in the decoding
process: picklable, and free of the framework."""


@dataclass(frozen=True)
class PreparedClip:
    """A clip ready for the device.

    row: index in the meta table.
    frames: what the captioner's FrameTransform made of the distinct frames, first axis frames.
    frame_index: for each sampled frame in time order, its place in `frames`.
    """

    row: int
    frames: np.ndarray
    frame_index: tuple[int, ...]


@dataclass(frozen=True)
class Caption:
    """Generated text of one clip; see RowResult for `tokens` and `truncated`."""

    text: str
    tokens: int
    truncated: bool


class Captioner(ABC):
    """A loaded model."""

    @abstractmethod
    def caption(self, clips: Sequence[PreparedClip]) -> list[Caption]:
        """Caption a batch; captions come in the order of `clips`, whatever their number."""


class CaptionerSource(ABC):
    """A captioner before its framework is imported: checked options and checkpoint.

    num_frames: frames to sample of each clip.
    frame_transform: see FrameTransform.
    """

    num_frames: int
    frame_transform: FrameTransform

    @abstractmethod
    def fingerprint(self) -> Mapping[str, str]:
        """Everything but the clips that the captions depend on, in words."""

    @abstractmethod
    def describe(self) -> list[str]:
        """Lines for the log: the choices made and why."""

    @abstractmethod
    def load(self, backend: Backend) -> Captioner:
        """Load the model onto the backend's device."""
