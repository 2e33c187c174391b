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

_QUOTES = ('""', "''", "“”", "‘’", "„“", "«»", "「」", "『』", "《》")  # noqa: RUF001
_APOSTROPHE = re.compile(r"\b['’]\b")  # noqa: RUF001
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
        self._begin_level(texts)

    def _begin_level(self, texts: Sequence[TimedText]) -> None:
        """Ask about texts, in parts if they do not fit."""
        settings, window = self._settings, self._window
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
        self._in_flight: set[int] = set()

    @property
    def is_answered(self) -> bool:
        # Not while other parts are in flight: their answers would come for a row that has left the loop.
        has_all = SUMMARY in self._results and (TITLE in self._results or TITLE not in self._columns)
        return has_all and not self._in_flight

    @property
    def may_ask_next(self) -> bool:
        return not self.is_answered and not self._in_flight

    def ask(self) -> tuple[str, ...]:
        # After an error, the row is asked again: its failure, of another part, is forgotten.
        self._results = {name: one for name, one in self._results.items() if not isinstance(one, Failure)}
        waiting = [number for number in range(len(self._questions)) if number not in self._answers]
        self._asked = tuple(waiting[:1] if self._one_at_a_time else waiting)
        self._in_flight = set(self._asked)
        return tuple(self._questions[number] for number in self._asked)

    def answer(self, number: int, result: ColumnResult) -> None:
        asked = self._asked[number]
        self._in_flight.discard(asked)
        if isinstance(result, Failure):
            self._fail(result)
        else:
            self._answers[asked] = result
        if len(self._answers) == len(self._questions) and not isinstance(self._results.get(SUMMARY), Failure):
            self._next_step([self._answers[n] for n in range(len(self._questions))])

    def _next_step(self, answers: Sequence[CaptionResult]) -> None:
        if SUMMARY in self._results:
            self._results[TITLE] = _without_quotes(answers[0])
        elif self._asks_parts:
            texts = [
                TimedText(part[0].start, part[-1].end, answer.caption)
                for part, answer in zip(self._parts, answers, strict=True)
            ]
            self._begin_level(texts)
            if self._asks_parts and len(self._parts) >= len(texts):
                # Not unless answers have more tokens as text than were generated: see SummarySettings.check_fits.
                message = f"the {len(texts)} summaries of its parts are too long to be summarised together"
                self._fail(Failure("text", (message,)))
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
        waiting, self._in_flight = len(self._in_flight), set()
        if waiting > 1:
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
    marks, inner = title.caption[:1] + title.caption[-1:], title.caption[1:-1].strip()
    if marks not in _QUOTES or not inner:
        return title
    # Marks inside belong to several quotations, as in "Yes" and "No".
    has_more = any(mark in _APOSTROPHE.sub("", inner) for mark in marks)
    return title if has_more else replace(title, caption=inner)
