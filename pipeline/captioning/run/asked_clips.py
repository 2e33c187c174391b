"""Rows in flight: a clip, the questions about it, and the answers so far. Knows nothing about engines and journals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..clips.clip import Clip, ClipTask, LoadFailure
from ..meta.asks import Asks
from ..meta.results import ColumnResult, Failure, RowResult
from ..workers.leases import RowTask
from .media_check import medium_problem


@dataclass
class AskedClip:
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

    @property
    def is_answered(self) -> bool:
        """Whether all questions are answered."""
        return len(self._answers) == len(self.questions)

    @property
    def may_ask_next(self) -> bool:
        """Whether the questions that were asked last are answered, and others are not."""
        return not self.is_answered and all(number in self._answers for number in self._asked)

    def ask(self) -> tuple[str, ...]:
        """The questions to ask now: those without an answer, or the first of them."""
        waiting = [number for number in range(len(self.questions)) if number not in self._answers]
        self._asked = tuple(waiting[:1] if self.one_at_a_time else waiting)
        return tuple(self.questions[number] for number in self._asked)

    def answer(self, number: int, result: ColumnResult) -> None:
        """Record an answer. number: of the question among those that `ask` returned last."""
        self._answers[self._asked[number]] = result

    def refuse(self, number: int, message: str) -> None:
        """Record that a question may not be asked about this clip. number: of the question."""
        self._answers[number] = Failure("prompt", (message,))

    def fail_asked(self, failure: Failure) -> bool:
        """Handle an error that this clip alone has caused; returns whether all questions are answered now.

        If several questions were asked together, they are asked one at a time from now on; the others may succeed.
        """
        waiting = [number for number in self._asked if number not in self._answers]
        if len(waiting) > 1:
            self.one_at_a_time = True
        else:
            self._answers |= dict.fromkeys(waiting, failure)
        return self.is_answered

    def result(self) -> RowResult:
        """The result of the row, once all questions are answered."""
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

    def failed(self, failure: LoadFailure) -> RowResult:
        """The result of a row whose clip could not be loaded."""
        columns = [self._asks.columns[i] for i in self._wanted(self._tasks.pop(failure.row))]
        return RowResult.failed(failure.row, columns, failure.stage, failure.messages)

    def _wanted(self, task: RowTask) -> tuple[int, ...]:
        return task.wanted or tuple(range(len(self._asks.asks)))
