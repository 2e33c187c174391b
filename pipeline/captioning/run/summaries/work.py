"""The work of one rank that summarises videos with a model in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...captioners.base import Captioner, CaptionerSource, Refused, Source
from ...generation.options import GenerationOptions
from ...generation.requests import Request
from ...long_videos.division import Window
from ...meta.asks import Asks
from ...workers import launch_checks
from ...workers.launch import Launch
from ...workers.leases import RowTask
from ..loaded_model import LoadedModel
from ..model_rows import AskedRow, EndedRow, ModelRows, RowLoader
from ..model_work import ModelWork
from ..options import JobOptions
from .loader import VideoLoader
from .row import SummaryRow, asked_video
from .settings import SummaryAsks, SummarySettings
from .table_work import VideoTableWork

if TYPE_CHECKING:
    from ...captioners.text_prompts import TextPrompts  # imports a tokenizer


class SummarySource(Source):
    """What summaries depend on, for a model.

    Raises:
        UsageError: the model can't answer questions about text, or its window is too small.
    """

    def __init__(self, source: CaptionerSource, settings: SummarySettings) -> None:
        self.asks: Asks = SummaryAsks.of(settings)
        self.settings = settings
        self.prompts: TextPrompts = source.text_prompts(settings.system)
        self.window = Window(settings.context(self.prompts.window), self.prompts.overhead, self.prompts.tokens)
        settings.check_fits(self.window)

    def options(self, answer_tokens: int) -> GenerationOptions:
        """How an answer of at most `answer_tokens` is generated."""
        return replace(self.prompts.generation, max_new_tokens=answer_tokens)

    def fingerprint(self) -> Mapping[str, str]:
        settings = self.settings
        return {
            **self.prompts.fingerprint(self.options(settings.summary_tokens)),
            **settings.fingerprint(),
            "context tokens": str(self.window.size),
        }

    def describe(self) -> list[str]:
        return [
            *self.prompts.describe(),
            f"prompts of at most {self.window.size} tokens with their answers; longer texts are summarised in parts",
        ]


class SummaryRows(ModelRows):
    """The videos of a run."""

    def __init__(self, source: SummarySource) -> None:
        self._source, self.asks = source, source.asks

    def loader(
        self,
        tasks: Iterable[RowTask],
        options: JobOptions,
        host_workers: int,
        slots: int,
        ahead: Callable[[], int],
    ) -> RowLoader:
        return VideoLoader(tasks, self.asked, ahead)

    def asked(self, task: RowTask) -> AskedRow | EndedRow:
        """The video of a task."""
        return asked_video(task, self.asks, self._source.settings, self._source.window)

    def requests(self, captioner: Captioner, rows: Sequence[AskedRow]) -> Iterator[Request | Refused]:
        for asked in rows:
            assert isinstance(asked, SummaryRow)
            options = self._source.options(asked.answer_tokens)
            for number, question in enumerate(asked.ask()):
                yield captioner.prepare_text((asked.row, number), question, options, self._source.settings.system)

    def max_slots(self, captioner: Captioner) -> int:
        answer = self._source.settings.summary_tokens
        return captioner.max_slots(self._source.window.size - answer, answer)


class SummaryWork(VideoTableWork, ModelWork):
    """Summarises the videos of a table of segments with a model.

    model: is shared with the run that captions the segments.
    column: of the table of segments, with their captions.
    """

    def __init__(self, model: LoadedModel, settings: SummarySettings, column: str, device: str = "cpu") -> None:
        self.model, self.device, self.column = model, device, column
        source = SummarySource(model.source, settings)
        self.source, self.rows = source, SummaryRows(source)

    def warnings(self, launch: Launch) -> list[str]:
        return launch_checks.warnings(launch, self.device, os.environ)
