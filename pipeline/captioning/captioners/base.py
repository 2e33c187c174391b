"""The interface of a captioner: what the job needs of a model family, and no more.

Adding a family means a package beside `pllava` with these two classes, and a command.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

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


class ClipFeed(Protocol):
    """Where a captioner takes its clips from."""

    def take(self, limit: int, wait: bool) -> Sequence[PreparedClip]:
        """At most `limit` clips that are ready, in order. None of them: there are none at the moment, or,
        when told to wait, no more at all."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing will come any more."""


class ListFeed:
    """A feed of clips that are all there."""

    def __init__(self, clips: Sequence[PreparedClip]) -> None:
        self._clips = list(clips)

    def take(self, limit: int, wait: bool) -> Sequence[PreparedClip]:
        taken, self._clips = self._clips[:limit], self._clips[limit:]
        return taken

    @property
    def exhausted(self) -> bool:
        return not self._clips


def full_batches(feed: ClipFeed, size: int) -> Iterator[list[PreparedClip]]:
    """Batches of `size` clips, the last one perhaps smaller."""
    batch: list[PreparedClip] = []
    while clips := feed.take(size - len(batch), wait=True):
        batch += clips
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class Captioner(ABC):
    """A loaded model."""

    @abstractmethod
    def caption(self, clips: ClipFeed, slots: int) -> Iterator[tuple[int, Caption]]:
        """Row and caption of all clips, each as soon as it is there, with up to `slots` clips at once.

        After an error nothing is kept: every clip that was taken and has no caption is to be fed again.
        """

    @abstractmethod
    def most_slots(self) -> int:
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
    def load(self, backend: Backend) -> Captioner:
        """Load the model onto the backend's device."""
