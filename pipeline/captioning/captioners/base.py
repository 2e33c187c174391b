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
from ..clips.clip import Clip
from ..generation.requests import End, Engine, Request

FrameTransform = Callable[[Sequence[Image.Image]], np.ndarray]
"""From distinct frames to what the captioner wants of them, as one array. Runs in the decoding
process: picklable, and free of the framework."""


@dataclass(frozen=True)
class Caption:
    """Generated text of one clip; see RowResult for `tokens` and `truncated`."""

    text: str
    tokens: int
    truncated: bool


class Captioner(ABC):
    """A loaded model: makes requests of clips, an engine for them, and captions of what the engine generates.

    clips_together: clips worth preparing at once.
    """

    clips_together: int

    @abstractmethod
    def engine(self, slots: int) -> Engine:
        """A new engine that generates up to `slots` captions at once."""

    @abstractmethod
    def prepare(self, clips: Sequence[Clip]) -> list[Request]:
        """Run the vision stage; returns the request of each clip, whose key is the clip's row."""

    @abstractmethod
    def caption(self, end: End) -> Caption:
        """The caption of a request that has ended without an error."""

    @abstractmethod
    def max_slots(self) -> int:
        """The number of clips at once that suits the device and its memory (`--bs auto`)."""

    @abstractmethod
    def stages(self) -> Mapping[str, float]:
        """What each stage on the device has taken and done so far: figures that add up over workers.

        Seconds are named `<stage>_seconds`, in the order of the stages.
        """


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
    def check_weights(self) -> None:
        """Compare the checkpoint's weights with the model's, without reading any. Needs the framework.

        Raises:
            UsageError: lists every missing, unexpected and misshapen weight.
        """

    @abstractmethod
    def load(self, backend: Backend) -> Captioner:
        """Load the model onto the backend's device."""
