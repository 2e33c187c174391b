"""Rows that are clips: a clip, the questions about it, and the answers so far.

Knows nothing about engines and journals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..captioners.base import Captioner, CaptionerSource, Refused
from ..clips.clip import Clip, ClipTask, LoadFailure
from ..clips.loader import ClipLoader, default_decode_workers
from ..generation.requests import Request
from ..meta.asks import Asks
from ..meta.results import ColumnResult, Failure, RowResult
from ..workers.leases import RowTask
from .media_check import medium_problem
from .model_rows import AskedRow, EndedRow, ModelRows, RowLoader
from .options import JobOptions

AUTO_PREFETCH = 64
"""Number of clips decoded ahead with `--bs auto`: the number of slots is known only after the model is loaded."""
PREFETCH_BYTES = 512 * 2**20
"""Bytes of frames that are decoded ahead, but never less than a batch: the 64 frames of a clip of LLaVA-Video take
28 MB."""


@dataclass
class AskedClip(AskedRow):
    """A clip and the questions about it.

    columns: of the table, one for the answer to each question.
    one_at_a_time: ask one question after the other, because the clip causes an error if all are asked together.
    """

    clip: Clip
    questions: tuple[str, ...]
    columns: tuple[str, ...]
    one_at_a_time: bool = False
    _answers: dict[int, ColumnResult] = field(default_factory=dict)
    _asked: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.row, self.path, self.range = self.clip.row, self.clip.path, self.clip.range
        self.frames = len(self.clip.frame_index)

    @property
    def is_answered(self) -> bool:
        return len(self._answers) == len(self.questions)

    @property
    def may_ask_next(self) -> bool:
        return not self.is_answered and all(number in self._answers for number in self._asked)

    def ask(self) -> tuple[str, ...]:
        waiting = [number for number in range(len(self.questions)) if number not in self._answers]
        self._asked = tuple(waiting[:1] if self.one_at_a_time else waiting)
        return tuple(self.questions[number] for number in self._asked)

    def answer(self, number: int, result: ColumnResult) -> None:
        self._answers[self._asked[number]] = result

    def refuse(self, number: int, message: str) -> None:
        """Record that a question may not be asked about this clip. number: of the question."""
        self._answers[number] = Failure("prompt", (message,))

    def fail_asked(self, failure: Failure) -> bool:
        waiting = [number for number in self._asked if number not in self._answers]
        if len(waiting) > 1:
            self.one_at_a_time = True
        else:
            self._answers |= dict.fromkeys(waiting, failure)
        return self.is_answered

    def result(self) -> RowResult:
        results = {column: self._answers[number] for number, column in enumerate(self.columns)}
        return RowResult(self.clip.row, results, partial=self.clip.partial, is_image=self.clip.is_image)


class RowTasks:
    """Keeps the tasks of the rows that are being decoded, and makes asked clips of the loaded ones.

    asks: of the run.
    """

    def __init__(self, asks: Asks) -> None:
        self._asks = asks
        self._tasks: dict[int, RowTask] = {}

    def rows(self, tasks: Iterable[RowTask]) -> Iterator[ClipTask]:
        """What a loader needs of the tasks."""
        for task in tasks:
            self._tasks[task.row] = task
            yield task.clip

    def asked(self, clip: Clip) -> AskedClip:
        """The questions about a loaded clip."""
        task = self._tasks.pop(clip.row)
        questions = self._asks.questions(task.cells)
        wanted = self._wanted(task)
        asked = AskedClip(clip, tuple(questions[i] for i in wanted), tuple(self._asks.columns[i] for i in wanted))
        if not self._asks.has_own_question(task.cells):
            for number, i in enumerate(wanted):
                problem = medium_problem(self._asks.asks[i], clip.is_image)
                if problem:
                    asked.refuse(number, problem)
        return asked

    def failed(self, failure: LoadFailure) -> EndedRow:
        """A row whose clip could not be loaded."""
        task = self._tasks.pop(failure.row)
        columns = [self._asks.columns[i] for i in self._wanted(task)]
        return EndedRow(RowResult.failed(task.row, columns, failure.stage, failure.messages), task.path, task.range)

    def _wanted(self, task: RowTask) -> tuple[int, ...]:
        return task.wanted or tuple(range(len(self._asks.asks)))


class ClipRowLoader(RowLoader):
    """Gives the clips of a loader, with their questions."""

    def __init__(self, loader: ClipLoader, tasks: RowTasks) -> None:
        self._loader, self._tasks = loader, tasks

    @property
    def has_ended(self) -> bool:  # type: ignore[override]
        return self._loader.has_ended

    @property
    def wait_seconds(self) -> float:  # type: ignore[override]
        return self._loader.wait_seconds

    @property
    def decode_seconds(self) -> float:  # type: ignore[override]
        return self._loader.decode_seconds

    def next_row(self, wait: float) -> AskedRow | EndedRow | None:
        loaded = self._loader.next_clip(wait)
        if loaded is None:
            return None
        if isinstance(loaded, LoadFailure):
            return self._tasks.failed(loaded)
        asked = self._tasks.asked(loaded)
        # Perhaps no question may be asked about it.
        return EndedRow(asked.result(), asked.path, asked.range) if asked.is_answered else asked

    def __enter__(self) -> ClipRowLoader:
        self._loader.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._loader.__exit__(*error)


class ClipRows(ModelRows):
    """Rows that are clips, with the questions of a source."""

    def __init__(self, source: CaptionerSource) -> None:
        self._source, self.asks = source, source.asks

    def loader(
        self,
        tasks: Iterable[RowTask],
        options: JobOptions,
        host_workers: int,
        slots: int,
        ahead: Callable[[], int],
    ) -> ClipRowLoader:
        rows = RowTasks(self.asks)
        loader = ClipLoader(
            rows.rows(tasks),
            self._source.preparation,
            options.decoder_limits,
            prefetch=AUTO_PREFETCH if options.batch_size is None else 2 * options.batch_size,
            workers=options.decode_workers or default_decode_workers(host_workers),
            ahead=ahead,
            prefetch_bytes=PREFETCH_BYTES,
            prefetch_least=max(2, options.batch_size or slots),
        )
        return ClipRowLoader(loader, rows)

    def requests(self, captioner: Captioner, rows: Sequence[AskedRow]) -> list[Request | Refused]:
        clips = [asked.clip for asked in rows if isinstance(asked, AskedClip)]
        return captioner.prepare(clips, [asked.ask() for asked in rows])

    def max_slots(self, captioner: Captioner) -> int:
        return captioner.max_slots()
