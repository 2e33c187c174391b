"""Describing videos without a model, for tests: videos, segments, journals and files are real."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Caption, Captioner
from pipeline.captioning.captioners.text_prompts import TextPrompts
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, Engine, Request
from pipeline.captioning.long_videos.segmentation.division import EqualParts
from pipeline.captioning.run import job
from pipeline.captioning.run.describing.descriptions import About
from pipeline.captioning.run.describing.files import make_outputs, read_inputs
from pipeline.captioning.run.describing.work import DescribeWork
from pipeline.captioning.run.model_work import ModelWork
from pipeline.captioning.run.summaries.settings import SummarySettings
from pipeline.captioning.run.summaries.work import SummaryWork
from scripts.thread_ranks import run_ranks
from scripts.without_model import EngineWithoutModel
from tests.fakes import CPU, FakeCaptioner, FakeSource
from tests.runs import write_meta


class WordPrompts(TextPrompts):
    """Prompts whose tokens are words."""

    window, overhead, generation = 2000, 2, GenerationOptions()

    def __init__(self) -> None:
        pass

    def tokens(self, text: str) -> int:
        return len(text.split())

    def fingerprint(self, options: GenerationOptions | None = None) -> dict[str, str]:
        return {"text prompt": "{question}"}

    def describe(self) -> list[str]:
        return []


class TextSource(FakeSource):
    """A source that answers questions about text, too: a summary is the captions, a title their number.

    on_texts: called with the rows of every batch of questions about text; may raise.
    """

    on_texts: Callable[[Sequence[int]], None] = staticmethod(lambda rows: None)

    def text_prompts(self, system: str = "") -> TextPrompts:
        return WordPrompts()

    def load(self, backend: Backend) -> Captioner:
        self.loads += 1
        return TextCaptioner(self)


class TextCaptioner(FakeCaptioner):
    def __init__(self, source: TextSource) -> None:
        super().__init__(source)
        self._texts: dict[tuple[int, int], str] = {}
        self._on_texts = source.on_texts

    def prepare(
        self,
        clips: Sequence[Clip],
        questions: Sequence[Sequence[str]] | None = None,
        systems: Sequence[str | None] | None = None,
    ) -> list[Any]:
        self._texts.clear()
        return super().prepare(clips, questions, systems)

    def prepare_text(
        self, key: tuple[int, int], question: str, options: GenerationOptions | None = None, system: str = ""
    ) -> Request:
        self._texts[key] = question
        nothing: Any = np.zeros((1, 0))
        return Request(key, nothing, np.zeros(1, int), 1, GenerationOptions(), frozenset(), question=key[1])

    def engine(self, slots: int) -> Engine:
        def generate(waiting: list[tuple[int, int]], slots: int) -> list[tuple[int, int]]:
            if not self._texts:
                return self._generate(waiting, slots)
            self._on_texts([row for row, _ in waiting[:slots]])
            return waiting[:slots]

        return EngineWithoutModel(slots, generate)

    def caption(self, end: End) -> Caption:
        assert isinstance(end.key, tuple)
        question = self._texts.get(end.key)
        if question is None:
            return super().caption(end)
        text, _ = question.split("\n\n", 1)
        if text.startswith("summary: "):
            return Caption(f"title of {len(text.split(' / '))}", 3, False)
        return Caption(f"summary: {text.replace(chr(10), ' / ')}", 9, False)


def captions_by(name: Callable[[Clip], str]) -> Callable[[Clip], Caption]:
    """A `FakeSource.caption`."""
    return lambda clip: Caption(name(clip), 5, False)


def work(
    folder: Path,
    videos: Sequence[Path | str],
    source: TextSource,
    *,
    output: str = "out",
    to: Sequence[str] | None = None,
    seconds: int = 1,
    restart: bool = False,
) -> DescribeWork:
    """The work of one call of the command in `folder`. seconds: length of a segment."""
    inputs = read_inputs([str(video) for video in videos], whole_files=False)
    outputs = make_outputs(folder / output, to, inputs)
    outputs.folder.mkdir(parents=True, exist_ok=True)
    options = write_meta(folder, [])
    common: dict[str, Any] = {"skip_if_existing": True, "restart": restart, "batch_size": 1}
    captions = {**common, "meta_path": outputs.segments, "output": outputs.captions, "times_rows": True}
    summaries = {**common, "meta_path": outputs.captions, "output": outputs.summaries, "lease_rows": 1}
    model = ModelWork(source, lambda: CPU)
    settings = SummarySettings()
    return DescribeWork(
        inputs,
        outputs,
        EqualParts(Fraction(1000 * seconds)),
        model,
        _replaced(options, captions),
        SummaryWork(model.model, settings, "text"),
        _replaced(options, summaries),
        About(0, "fake", "Describe the clip.", settings.summary_question, settings.title_question, {"python": "3"}),
        2,
        30.0,
    )


def _replaced(options: Any, changes: Mapping[str, Any]) -> Any:
    return type(options)(**{**vars(options), **changes})


def describe(make: Callable[[], DescribeWork], ranks: int = 1) -> list[object]:
    """Describe on ranks that are threads; returns what each rank returned or raised. make: the work of one rank."""

    def main(world: Any) -> int:
        return job.in_world(world, lambda: make().describe(world))

    return run_ranks(ranks, main)


def written(path: Path) -> dict[str, Any]:
    """A description as its file has it."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def without_times(described: Mapping[str, Any]) -> dict[str, Any]:
    """A description without what differs between two runs."""
    kept = {key: value for key, value in described.items() if key not in ("average_inference", "turnaround_time")}
    return kept | {"batches": [{k: v for k, v in batch.items() if k != "time"} for batch in described["batches"]]}


def write_table(path: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = ("path",)) -> Path:
    """Write a CSV table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path
