"""A video whose captions are summarised: what is asked about it, one question after the other.

Texts that fit into the window are summarised at once. Others are divided, each part is summarised, and the summaries
of the parts are summarised in the same way. The title is asked about the summary. Knows nothing about engines and
services.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ...long_videos.division import TimedText, Window, parts_that_fit, prompt_about
from ...meta.asks import Asks
from ...meta.results import CaptionResult, ColumnResult, Failure, RowResult
from ...workers.leases import RowTask
from ..model_rows import AskedRow, EndedRow
from .settings import SUMMARY, TITLE, SummarySettings
from .videos import texts_of_cell

_MAX_LEVELS = 12
"""Each level at least halves the text, so this is never reached unless answers are longer than they may be."""
_QUOTES = re.compile(r"""^(["'“‘«「])(.+)(["'”’»」])$""", re.DOTALL)  # noqa: RUF001
NO_CAPTIONS = "segments"
"""The stage of a failure: no segment has a caption."""


class SummaryRow(AskedRow):
    """row, path: of the video in the table of videos.

    texts: the captions of its segments, in order of time, at least one.
    columns: those of SUMMARY and TITLE that are wanted.
    """

    def __init__(
        self,
        row: int,
        path: str,
        texts: Sequence[TimedText],
        columns: Sequence[str],
        settings: SummarySettings,
        window: Window,
    ) -> None:
        self.row, self.path = row, path
        self._columns, self._settings, self._window = tuple(columns), settings, window
        self._results: dict[str, ColumnResult] = {}
        self._one_at_a_time = False
        self._level = 0
        self._begin_level(texts)

    def _begin_level(self, texts: Sequence[TimedText]) -> None:
        """Ask about texts, in parts if they do not fit."""
        settings, window = self._settings, self._window
        self._level += 1
        room = window.room(settings.summary_question, settings.summary_tokens)
        parts = parts_that_fit(texts, room, window.tokens)
        self._asks_parts = len(parts) > 1
        if self._asks_parts:
            part_room = window.room(settings.part_question, settings.summary_tokens)
            parts = parts_that_fit(texts, part_room, window.tokens)
        question = settings.part_question if self._asks_parts else settings.summary_question
        self._begin([prompt_about(part, question) for part in parts], settings.summary_tokens)
        self._parts = parts

    def _begin(self, questions: Sequence[str], answer_tokens: int) -> None:
        self._questions, self.answer_tokens = list(questions), answer_tokens
        self._answers: dict[int, CaptionResult] = {}
        self._asked: tuple[int, ...] = ()

    @property
    def is_answered(self) -> bool:
        return SUMMARY in self._results and (TITLE in self._results or TITLE not in self._columns)

    @property
    def may_ask_next(self) -> bool:
        return not self.is_answered and all(number in self._answers for number in self._asked)

    def ask(self) -> tuple[str, ...]:
        waiting = [number for number in range(len(self._questions)) if number not in self._answers]
        self._asked = tuple(waiting[:1] if self._one_at_a_time else waiting)
        return tuple(self._questions[number] for number in self._asked)

    def answer(self, number: int, result: ColumnResult) -> None:
        if self.is_answered:
            return  # another part has failed
        if isinstance(result, Failure):
            self._fail(result)
            return
        self._answers[self._asked[number]] = result
        if len(self._answers) == len(self._questions):
            self._next_step([self._answers[n] for n in range(len(self._questions))])

    def _next_step(self, answers: Sequence[CaptionResult]) -> None:
        if SUMMARY in self._results:
            self._results[TITLE] = _without_quotes(answers[0])
        elif self._asks_parts:
            if self._level == _MAX_LEVELS:
                self._fail(Failure("caption", (f"the summaries do not become shorter in {_MAX_LEVELS} steps",)))
                return
            self._begin_level(
                [
                    TimedText(part[0].start, part[-1].end, answer.caption)
                    for part, answer in zip(self._parts, answers, strict=True)
                ]
            )
        else:
            (summary,) = answers
            self._results[SUMMARY] = summary
            if TITLE in self._columns:
                question = f"{summary.caption}\n\n{self._settings.title_question}"
                self._begin([question], self._settings.title_tokens)

    def _fail(self, failure: Failure) -> None:
        self._results.setdefault(SUMMARY, failure)
        self._results.setdefault(TITLE, failure)

    def fail_asked(self, failure: Failure) -> bool:
        if sum(number not in self._answers for number in self._asked) > 1:
            self._one_at_a_time = True
        else:
            self._fail(failure)
        return self.is_answered

    def result(self) -> RowResult:
        return RowResult(self.row, {column: self._results[column] for column in self._columns})


def asked_video(task: RowTask, asks: Asks, settings: SummarySettings, window: Window) -> AskedRow | EndedRow:
    """The video of a task, or its failure if no segment has a caption."""
    columns = [asks.columns[number] for number in task.wanted or range(len(asks.columns))]
    (cell,) = task.cells
    texts = texts_of_cell(cell)
    if not texts:
        message = "no segment of this video has a caption"
        return EndedRow(RowResult.failed(task.row, columns, NO_CAPTIONS, [message]), task.path)
    return SummaryRow(task.row, task.path, texts, columns, settings, window)


def _without_quotes(title: CaptionResult) -> CaptionResult:
    """The title without quotation marks around it: models often write them."""
    found = _QUOTES.match(title.caption)
    return replace(title, caption=found[2].strip()) if found and found[2].strip() else title
