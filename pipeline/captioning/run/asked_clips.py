"""Rows in flight: a clip, the questions about it, and the answers so far. Knows nothing about engines and journals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..clips.clip import Clip, LoadFailure
from ..meta.asks import Asks
from ..meta.results import ColumnResult, RowResult
from ..workers.leases import RowTask


@dataclass
class AskedClip:
    """A clip and the questions about it.

    columns: of the table, one for the answer to each question.
    answers: by the number of the question.
    """

    clip: Clip
    questions: tuple[str, ...]
    columns: tuple[str, ...]
    answers: dict[int, ColumnResult] = field(default_factory=dict)

    @property
    def is_answered(self) -> bool:
        return len(self.answers) == len(self.questions)

    def result(self) -> RowResult:
        """The result of the row, once all questions are answered."""
        results = {column: self.answers[number] for number, column in enumerate(self.columns)}
        return RowResult(self.clip.row, results, partial=self.clip.partial, is_image=self.clip.is_image)

    def fail(self, stage: str, message: str) -> RowResult:
        """The result of a row that fails as a whole."""
        return RowResult.failed(self.clip.row, self.columns, stage, [message])


class RowTasks:
    """Keeps the tasks of the rows that are being decoded, and makes asked clips of the loaded ones.

    asks: of the run.
    """

    def __init__(self, asks: Asks) -> None:
        self._asks = asks
        self._tasks: dict[int, RowTask] = {}

    def rows(self, tasks: Iterable[RowTask]) -> Iterator[tuple[int, str]]:
        """The (row, path) pairs that a loader needs."""
        for task in tasks:
            self._tasks[task.row] = task
            yield task.row, task.path

    def asked(self, clip: Clip) -> AskedClip:
        """The questions about a loaded clip."""
        task = self._tasks.pop(clip.row)
        questions = self._asks.questions(task.cells)
        wanted = self._wanted(task)
        return AskedClip(clip, tuple(questions[i] for i in wanted), tuple(self._asks.columns[i] for i in wanted))

    def failed(self, failure: LoadFailure) -> RowResult:
        """The result of a row whose clip could not be loaded."""
        columns = [self._asks.columns[i] for i in self._wanted(self._tasks.pop(failure.row))]
        return RowResult.failed(failure.row, columns, failure.stage, failure.messages)

    def _wanted(self, task: RowTask) -> tuple[int, ...]:
        return task.wanted or tuple(range(len(self._asks.asks)))
