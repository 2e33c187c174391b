"""The work of a run whose summaries a service makes: the rows are videos. One process; needs no framework."""

from __future__ import annotations

import functools
import logging

from ...captioners.api.asker import Asker
from ...captioners.api.options import ServiceOptions
from ...captioners.api.sender import Sender
from ...captioners.api.store import StoredAnswers
from ..options import JobOptions
from ..planning import RankPlan
from ..summaries.settings import SummarySettings
from ..summaries.table_work import VideoTableWork
from . import summary_dry_run
from .base_work import ServiceRankWork, Session
from .summary_source import SummaryServiceSource
from .summary_worker import SummaryServiceWorker

logger = logging.getLogger(__name__)

_VIDEO_SECONDS = 300.0
"""Time in which a video's captions are read and divided, at most."""


class SummaryServiceWork(VideoTableWork, ServiceRankWork):
    """Summarises the videos of a table of segments through a service.

    A run that captions the segments may come before it in the same process, and may share its file of answers.

    options: of the service; of its captions, system prompt and schema are not used. job: of the run.
    column: of the table of segments, with their captions.

    Raises:
        UsageError: the window is too small for the questions.
    """

    source: SummaryServiceSource

    def __init__(self, options: ServiceOptions, job: JobOptions, settings: SummarySettings, column: str) -> None:
        self.source = SummaryServiceSource(options, settings)
        super().__init__(self.source.options, job)
        self.column = column

    async def answer(self, session: Session) -> None:
        parts = self.loop_parts(session, _VIDEO_SECONDS)
        asker = functools.cache(functools.partial(self._asker, session.store, parts.sender))
        worker = SummaryServiceWorker(self.source, asker, parts, session.plan.total_rows)
        await worker.run(session.tasks)

    def report_plan(self, options: JobOptions, plan: RankPlan) -> None:
        store = StoredAnswers(self.options.answers, self.job.output, self.options.pay_again)
        asker = functools.cache(functools.partial(self._asker, store, None))
        for line in summary_dry_run.report(plan, self.source, asker):
            logger.info("%s", line)
        store.close()

    def _asker(self, store: StoredAnswers, sender: Sender | None, answer_tokens: int) -> Asker:
        """Asks questions whose answers have at most `answer_tokens`."""
        return Asker(store, sender, self.source.generation(answer_tokens), self.usage)
