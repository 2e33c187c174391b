"""Test doubles: a captioner without a model, and rendered clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Caption, Captioner, Refused
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.generation.requests import End, Engine, Request
from pipeline.captioning.meta.asks import Asks
from scripts.without_model import EngineWithoutModel, SourceWithoutModel, requests_without_prompts, row_of

CPU = Backend("torch", "cpu", "float32")


def render_clip(path: Path, number: int = 0, frames: int = 8, size: tuple[int, int] = (96, 64)) -> Path:
    """Write a small video: a square that moves; its colour and start depend on `number`."""
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(frames):
            image = np.full((height, width, 3), 30 + number * 7 % 60, np.uint8)
            left = (number * 11 + t * 6) % (width - 24)
            image[16:40, left : left + 24] = [(number * 53) % 256, (number * 97 + 80) % 256, 200 - number * 31 % 190]
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def segments(num_frames: int) -> FrameSampling:
    """PLLaVA's sampling."""
    return FrameSampling("segments", num_frames)


def mean_colour(images: Sequence[Image.Image]) -> np.ndarray:
    """A frame transform: mean RGB of each frame, uint8 (frames, 3)."""
    return np.stack([np.asarray(image).reshape(-1, 3).mean(0) for image in images]).astype(np.uint8)


@dataclass
class FakeSource(SourceWithoutModel):
    """Captions that state the colours of the clip, without a model; the answer to a question of asks ends with it.

    on_batch: called with every batch before it is captioned; may raise.
    """

    on_batch: Callable[[Sequence[Clip]], None] = lambda batch: None
    settings: Mapping[str, str] = field(default_factory=lambda: {"prompt": "a"})
    asks: Asks = SourceWithoutModel.asks
    loads: int = 0
    rows_captioned: list[int] = field(default_factory=list)
    sampling: FrameSampling = field(default_factory=lambda: segments(2))
    frame_transform: Any = mean_colour
    caption: Callable[[Clip], Caption] = lambda clip: Caption(f"colours {clip.frames.tolist()}, seen", 7, False)

    def fingerprint(self) -> Mapping[str, str]:
        return self.settings

    def load(self, backend: Backend) -> Captioner:
        self.loads += 1
        return FakeCaptioner(self)


class FakeCaptioner(Captioner):
    """Captions of a source, batch by batch."""

    clips_together = 1000

    def __init__(self, source: FakeSource) -> None:
        self._source = source
        self._clips: dict[int, Clip] = {}
        self._questions: dict[int, Sequence[str]] = {}

    def engine(self, slots: int) -> Engine:
        return EngineWithoutModel(slots, self._generate)

    def _generate(self, waiting: list[tuple[int, int]], slots: int) -> list[tuple[int, int]]:
        keys = waiting[:slots]
        self._source.on_batch([self._clips[row] for row, _ in keys])
        self._source.rows_captioned += [row for row, question in keys if question == 0]
        return keys

    def prepare(
        self,
        clips: Sequence[Clip],
        questions: Sequence[Sequence[str]] | None = None,
        systems: Sequence[str | None] | None = None,
    ) -> list[Request | Refused]:
        self._clips |= {clip.row: clip for clip in clips}
        self._questions |= {clip.row: own for clip, own in zip(clips, questions or [["?"]] * len(clips), strict=True)}
        return [*requests_without_prompts(clips, questions)]

    def caption(self, end: End) -> Caption:
        row = row_of(end)
        caption, question = self._source.caption(self._clips[row]), self._questions[row][end.question]
        if question in SourceWithoutModel.asks.texts:
            return caption
        return replace(caption, text=f"{caption.text}: {question}")

    def max_slots(self, text_tokens: int = 0, answer_tokens: int = 0) -> int:
        return 3

    def stages(self) -> Mapping[str, float]:
        return {"vision_seconds": 0.25}
