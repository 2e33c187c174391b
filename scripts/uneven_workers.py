"""Measures how much a slow worker delays a run: runs with ranks of different speeds, compared with the ideal time.

    python -m scripts.uneven_workers --clips 200 --seconds 0.1,0.3 --bs 1

The ranks are threads that run the real job. Clips are rendered, decoded and leased as in any run. The captioner has no
model: for each clip it waits a fixed time, which differs between the ranks. The script prints the time from the first
clip to the last caption, its ratio to the ideal time in which all ranks end together, and the ratio if each rank got an
equal share of the rows once.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Caption, Captioner, Refused
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.clips.sampling import FrameSampling
from pipeline.captioning.generation.requests import End, Engine, Request
from pipeline.captioning.run import job
from pipeline.captioning.run.model_work import ModelWork
from pipeline.captioning.run.options import JobOptions
from scripts.clip_world import random_clip, write_clips
from scripts.thread_ranks import run_ranks
from scripts.without_model import EngineWithoutModel, SourceWithoutModel, requests_without_prompts, row_of


class _WaitingEngine(EngineWithoutModel):
    """Each step waits `source.seconds` and ends the oldest request: the slots share one device."""

    requests_needed = 1

    def __init__(self, slots: int, source: _WaitingSource) -> None:
        super().__init__(slots, self._wait)
        self._source = source

    def _wait(self, keys: list[Any], slots: int) -> list[Any]:
        time.sleep(self._source.seconds)
        self._source.caption_times.append(time.monotonic())
        return keys[:1]


class _WaitingSource(SourceWithoutModel):
    """Makes captioners that wait.

    seconds: for each clip.
    start_times: when the first clip was prepared; empty before.
    caption_times: when each caption ended.
    """

    sampling = FrameSampling("segments", 4)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start_times: list[float] = []
        self.caption_times: list[float] = []

    @staticmethod
    def frame_transform(images: Sequence[Any]) -> np.ndarray:
        return np.stack([np.asarray(image) for image in images])

    def load(self, backend: Backend) -> Captioner:
        return _WaitingCaptioner(self)


class _WaitingCaptioner(Captioner):
    clips_together = 1000

    def __init__(self, source: _WaitingSource) -> None:
        self._source = source

    def engine(self, slots: int) -> Engine:
        return _WaitingEngine(slots, self._source)

    def prepare(
        self,
        clips: Sequence[Clip],
        questions: Sequence[Sequence[str]] | None = None,
        systems: Sequence[str | None] | None = None,
    ) -> list[Request | Refused]:
        if clips and not self._source.start_times:
            self._source.start_times.append(time.monotonic())
        return [*requests_without_prompts(clips, questions)]

    def caption(self, end: End) -> Caption:
        return Caption(f"row {row_of(end)}", 1, False)

    def max_slots(self, text_tokens: int = 0, answer_tokens: int = 0) -> int:
        return 1

    def stages(self) -> Mapping[str, float]:
        return {}


def measure(clips: int, seconds: Sequence[float], slots: int) -> dict[str, float]:
    """Run the job and return the figures to print, by name.

    clips: number of clips.
    seconds: for a clip, on each rank.
    slots: of each rank.
    """
    with TemporaryDirectory() as name:
        meta = write_clips(Path(name), (random_clip(3, number) for number in range(clips)))
        options = JobOptions(
            meta_path=meta, output=meta.with_name("out.csv"), batch_size=slots, pad_length=4096, limit=None,
            skip_if_existing=False, restart=False, decode_timeout=60, decode_workers=1, max_failure_rate=1,
            stall_timeout=1800, framework=None, device=None, dtype=None,
        )  # fmt: skip
        sources = [_WaitingSource(one) for one in seconds]
        backend = Backend("torch", "cpu", "float32")
        codes = run_ranks(
            len(seconds),
            lambda world: job.run_in_world(options, ModelWork(sources[world.rank], lambda: backend), world),
        )
        assert codes == [0] * len(seconds), codes
    begin = min(source.start_times[0] for source in sources)
    duration = max(source.caption_times[-1] for source in sources) - begin
    ideal = clips / sum(1 / one for one in seconds)
    return {
        "clips of each rank": [len(source.caption_times) for source in sources],  # type: ignore[dict-item]
        "seconds": duration,
        "ideal": ideal,
        "ratio": duration / ideal,
        "ratio with equal shares": clips / len(seconds) * max(seconds) / ideal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=200, help="number of clips")
    parser.add_argument("--seconds", default="0.1,0.3", help="seconds for a clip, on each rank; separated by commas")
    parser.add_argument("--bs", type=int, default=1, help="slots of each rank")
    flags = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    for name, value in measure(flags.clips, [float(one) for one in flags.seconds.split(",")], flags.bs).items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


if __name__ == "__main__":
    main()
