"""A source that answers questions about text without a model, tables of segments, and complete runs of summaries."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.captioning.backends import Backend
from pipeline.captioning.captioners.base import Caption, Captioner
from pipeline.captioning.generation.options import GenerationOptions
from pipeline.captioning.generation.requests import End, EndReason, Engine, Event, Request
from pipeline.captioning.run import job
from pipeline.captioning.run.loaded_model import LoadedModel
from pipeline.captioning.run.options import JobOptions
from pipeline.captioning.run.summaries.settings import SummarySettings
from pipeline.captioning.run.summaries.work import SummaryWork
from scripts.thread_ranks import run_ranks
from scripts.without_model import EngineWithoutModel
from tests.fakes import CPU, FakeCaptioner, FakeSource
from tests.runs import write_meta

SETTINGS = SummarySettings("Sum up.", "Sum up this part.", "Name it.", summary_tokens=12, title_tokens=4)


def first_words(question: str) -> str:
    """An answer that shows what it was made of: the first word of each caption in the question."""
    *lines, asked = question.split("\n")
    words = ",".join(line.split("] ")[-1].split()[0] for line in lines if line)
    return f"{ {'Sum up.': 'S', 'Sum up this part.': 'P', 'Name it.': 'T'}[asked] }({words})"


class _WordPrompts:
    """In place of `TextPrompts`: a token is a word."""

    overhead, generation = 5, GenerationOptions()

    def __init__(self, window: int) -> None:
        self.window = window

    def tokens(self, text: str) -> int:
        return len(text.split())

    def fingerprint(self, options: GenerationOptions) -> dict[str, str]:
        return {"generation": options.fingerprint()}

    def describe(self) -> list[str]:
        return ["prompts of words"]


@dataclass
class TextSource(FakeSource):
    """Answers with `first_words`.

    window: words of a prompt and its answer.
    on_question: called with every question before it is answered; may raise.
    overflows: whether the model's output overflows at a question.
    asked: all questions that were answered, with the longest answer and the system prompt.
    """

    window: int = 110
    on_question: Callable[[str], None] = lambda question: None
    overflows: Callable[[str], bool] = lambda question: False
    asked: list[tuple[str, int, str]] = field(default_factory=list)

    def text_prompts(self, system: str = "") -> Any:
        return _WordPrompts(self.window)

    def load(self, backend: Backend) -> Captioner:
        self.loads += 1
        return _TextCaptioner(self)


class _TextCaptioner(FakeCaptioner):
    def __init__(self, source: TextSource) -> None:
        super().__init__(source)
        self._texts = source
        self._asked: dict[object, tuple[str, int, str]] = {}

    def engine(self, slots: int) -> Engine:
        return _TextEngine(slots, self._texts, self._asked)

    def prepare_text(
        self, key: tuple[int, int], question: str, options: GenerationOptions | None = None, system: str = ""
    ) -> Request:
        options, nothing = options or GenerationOptions(), np.zeros((1, 0))
        self._asked[key] = question, options.max_new_tokens, system
        return Request(key, nothing, np.zeros(1, int), 1, options, frozenset(), question=key[1])  # type: ignore[arg-type]

    def caption(self, end: End) -> Caption:
        return Caption(first_words(self._asked[end.key][0]), 3, truncated=False)


class _TextEngine(EngineWithoutModel):
    """Answers one question in each step, the newest first."""

    def __init__(self, slots: int, source: TextSource, asked: Mapping[object, tuple[str, int, str]]) -> None:
        super().__init__(slots, lambda keys, slots: keys[-1:])
        self._source, self._asked = source, asked

    def step(self) -> list[Event]:
        events: list[Event] = []
        for end in super().step():
            question = self._asked[end.key][0]
            self._source.on_question(question)
            self._source.asked.append(self._asked[end.key])
            overflows = isinstance(end, End) and self._source.overflows(question)
            events.append(replace(end, reason=EndReason.NOT_A_NUMBER, message="not a number") if overflows else end)
        return events


def write_segments(
    folder: Path,
    rows: Sequence[Sequence[object]],
    header: Sequence[str] = ("path", "start", "end", "text"),
    name: str = "segments.csv",
) -> JobOptions:
    """Write a captioned table of segments; returns options that summarise it into `out.csv`."""
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return replace(write_meta(folder, []), meta_path=folder / name, lease_rows=1)


def summarise(
    options: JobOptions,
    source: TextSource,
    workers: int = 1,
    settings: SummarySettings = SETTINGS,
    column: str = "text",
) -> list[object]:
    """Summarise on `workers` ranks; returns what each rank returned or raised."""

    def work() -> SummaryWork:
        return SummaryWork(LoadedModel(source, lambda: CPU), settings, column)

    return run_ranks(workers, lambda world: job.run_in_world(options, work(), world))
