"""The work of one rank that summarises videos with a model in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...captioners.base import Captioner, CaptionerSource, Refused, Source
from ...captioners.text_prompts import TextPrompts
from ...generation.options import GenerationOptions
from ...generation.requests import Request
from ...long_videos.division import Window
from ...meta.asks import Asks
from ...meta.results import RowResult
from ...meta.table import MetaTable
from ...workers import launch_checks
from ...workers.launch import Launch
from ...workers.leases import RowTask
from ..earlier_captions import Redo
from ..loaded_model import LoadedModel
from ..model_rows import AskedRow, EndedRow, ModelRows, RowLoader
from ..model_work import ModelWork
from ..options import JobOptions
from .row import NO_CAPTIONS, SummaryRow
from .settings import SummaryAsks, SummarySettings
from .videos import DIGEST, read_videos, texts_of_cell


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
        return VideoLoader(tasks, self.asked)

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


class VideoLoader(RowLoader):
    """Gives the videos of tasks at once: nothing is decoded."""

    wait_seconds = decode_seconds = 0.0

    def __init__(self, tasks: Iterable[RowTask], asked: Callable[[RowTask], AskedRow | EndedRow]) -> None:
        self._tasks, self._asked = iter(tasks), asked
        self.has_ended = False

    def next_row(self, wait: float) -> AskedRow | EndedRow | None:
        task = next(self._tasks, None)
        self.has_ended = task is None
        return None if task is None else self._asked(task)


class SummaryWork(ModelWork):
    """Summarises the videos of a table of segments with a model.

    model: is shared with the run that captions the segments.
    column: of the table of segments, with their captions.
    """

    def __init__(self, model: LoadedModel, settings: SummarySettings, column: str, device: str = "cpu") -> None:
        self.model, self.device, self._column = model, device, column
        source = SummarySource(model.source, settings)
        self._videos: MetaTable | None = None  # on rank 0, once they have been read
        self.source, self.rows = source, SummaryRows(source)

    def warnings(self, launch: Launch) -> list[str]:
        return launch_checks.warnings(launch, self.device, os.environ)

    def read_table(self, options: JobOptions) -> MetaTable:
        self._videos = videos = read_videos(options.meta_path, self._column, options.whole_files)
        return videos

    def redo(self, options: JobOptions) -> Redo:
        marked = super().redo(options)
        return marked if self._videos is None else ChangedVideos(self._videos, marked)


class ChangedVideos:
    """Finds the summaries that are to be made again: those with a mark of `--redo`, or of other captions than now.

    videos: the present table. marked: finds those with a mark.
    """

    def __init__(self, videos: MetaTable, marked: Redo) -> None:
        self._marked = marked
        self._digests = dict(zip(videos.paths, videos.texts(DIGEST) or (), strict=True))

    def __call__(self, table: MetaTable, path: Path, column: str) -> set[int]:
        """The rows of an earlier table; see `earlier_captions.Redo`."""
        digests = table.texts(DIGEST) or [""] * len(table.paths)
        pairs = enumerate(zip(table.paths, digests, strict=True))
        changed = {row for row, (video, digest) in pairs if self._digests.get(video) != digest}
        return changed | set(self._marked(table, path, column))


def asked_video(task: RowTask, asks: Asks, settings: SummarySettings, window: Window) -> AskedRow | EndedRow:
    """The video of a task, or its failure if no segment has a caption."""
    columns = [asks.columns[number] for number in task.wanted or range(len(asks.columns))]
    (cell,) = task.cells
    texts = texts_of_cell(cell)
    if not texts:
        message = "no segment of this video has a caption"
        return EndedRow(RowResult.failed(task.row, columns, NO_CAPTIONS, [message]), task.path)
    return SummaryRow(task.row, task.path, texts, columns, settings, window)
