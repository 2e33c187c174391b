"""The rows of a run through a service whose rows are videos: their summaries, step by step. The loop is in `loop`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from ...captioners.api.asker import Asker
from ...workers.leases import RowTask
from ..model_rows import AskedRow, EndedRow
from ..summaries.loader import VideoLoader
from ..summaries.row import SummaryRow, asked_video
from .loop import LoopParts, ServiceLoop
from .summary_source import SummaryServiceSource

Video: TypeAlias = "AskedRow | EndedRow"


class SummaryServiceWorker(ServiceLoop[Video]):
    """Summarises the videos of a run through a service.

    Questions of one step, such as those about the parts of a long text, are asked at the same time.

    asker: makes the asker of answers with at most so many tokens.
    videos: number of videos of the whole run, for the estimate of its cost.
    """

    def __init__(
        self, source: SummaryServiceSource, asker: Callable[[int], Asker], parts: LoopParts, videos: int
    ) -> None:
        super().__init__(parts)
        self._source, self._asker, self._videos = source, asker, videos
        self._finished_videos = self._questions_of_finished = 0

    async def run(self, tasks: Iterable[RowTask]) -> None:
        """Summarise videos until none is left, or until the run ends early. Requests in flight are always awaited.

        Raises:
            ServiceStop, RunError: see `ServiceLoop.loop`.
        """
        loader = VideoLoader(tasks, self._asked)
        await self.loop(loader.next_row, lambda: loader.has_ended)

    def _asked(self, task: RowTask) -> Video:
        return asked_video(task, self._source.asks, self._source.settings, self._source.window)

    def remaining_questions(self) -> int:
        """As if the other videos had as many questions as those that are finished: long texts have more."""
        asks = len(self._source.asks.asks)
        mean = self._questions_of_finished / self._finished_videos if self._finished_videos else asks
        return round(mean * self._videos) - self.parts.usage.outcomes.total()

    def begin(self, row: Video) -> None:
        if isinstance(row, EndedRow):
            self._finished_videos += 1
            self.finish(row.result, row.path)
            return
        assert isinstance(row, SummaryRow)
        self.start(self._summarise(row))

    async def _summarise(self, video: SummaryRow) -> None:
        """Ask one step after the other, and finish the row if all are answered."""
        begun, asked = time.monotonic(), 0
        while not video.is_answered:
            questions, answer_tokens = video.ask(), video.answer_tokens
            asked += len(questions)
            asker = self._asker(answer_tokens)
            self.open_questions += len(questions)
            try:
                requests = [self._source.request(question, answer_tokens) for question in questions]
                answers = await self.answers(map(asker.ask, requests))
            finally:
                self.open_questions -= len(questions)
            if answers is None:
                return
            for number, answer in enumerate(answers):
                video.answer(number, answer.result)
        self._finished_videos += 1
        self._questions_of_finished += asked
        self.finish(video.result(), video.path, begun=begun)
