"""The work of a run whose captions a service makes: the rows are clips. One process; needs no framework."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable
from typing import Any

from ...captioners.api.asker import Asker
from ...captioners.api.batch import leftovers
from ...captioners.api.batch.records import job_of, open_requests
from ...captioners.api.options import ServiceOptions
from ...captioners.api.source import ServiceSource
from ...captioners.api.store import StoredAnswers
from ...captioners.named_prompts import frame_warnings
from ...clips.clip import ClipTask
from ...clips.loader import ClipLoader, default_decode_workers
from ...meta.names import RANGE_COLUMNS
from ...process.errors import UsageError
from ...workers.launch import Launch
from ..options import JobOptions
from ..planning import RankPlan
from . import dry_run
from .base_work import ServiceRankWork, Session
from .rows import ServiceRows
from .worker import ServiceWorker

logger = logging.getLogger(__name__)

PREFETCH_BYTES = 256 * 2**20
"""Bytes of encoded frames that wait for their requests."""
_DECODER_START_SECONDS = 300.0


class ServiceWork(ServiceRankWork):
    """Captions the rows through a service.

    options: of the service. job: of the run.
    """

    source: ServiceSource

    def __init__(self, source: ServiceSource, options: ServiceOptions, job: JobOptions) -> None:
        super().__init__(options, job)
        self.source = source

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "send": self.options.visuals.send}

    def warnings(self, launch: Launch) -> list[str]:
        return frame_warnings(self.source.asks, self.source.sampling)

    def check_ranges(self, options: JobOptions) -> None:
        if self.source.preparation.sends_file:
            raise UsageError(
                f"--send video sends whole files, but rows of {options.meta_path} are parts of their files (columns "
                f"{' and '.join(map(repr, RANGE_COLUMNS))}); give --send images, or --whole_files if the columns mean "
                "something else"
            )

    def prepare(self) -> str:
        computing_type = super().prepare()
        if not self.options.batch:
            self._check_open_batches()
        return computing_type

    def _check_open_batches(self) -> None:
        """Without `--batch`: the questions in open batches would be paid twice. With `--restart`, forget the batches.

        Raises:
            UsageError: there are open batches, and no `--restart`.
        """
        store, job = self.opened_store(), job_of(self.job.output)
        batches = leftovers.open_batches(store, job)
        if not batches:
            return
        count = open_requests(batches)
        if not self.job.restart:
            store.close()
            raise UsageError(
                f"{count} requests are in open batches of an interrupted run; give --batch to fetch their answers, or "
                "--restart to forget them"
            )
        asyncio.run(leftovers.forget(store, job, batches))
        ids = leftovers.ids_of(batches) or "not sent yet"
        logger.warning("%d requests in open batches of an interrupted run are forgotten (%s)", count, ids)

    async def answer(self, session: Session) -> None:
        rows = ServiceRows(self.source)
        if self.options.batch:
            await self._answer_in_batches(session, rows)
            return
        job = self.job
        clip_seconds = _DECODER_START_SECONDS + 2 * job.decode_timeout + job.download_timeout
        parts = self.loop_parts(session, clip_seconds)
        worker = ServiceWorker(
            rows,
            Asker(session.store, parts.sender, self.options.generation, self.usage),
            parts,
            functools.partial(self._loader, session.plan),
            questions=session.plan.total_rows * len(self.source.asks.asks),
        )
        try:
            await worker.run(session.tasks)
        finally:
            session.stats.decode_wait_seconds += worker.wait_seconds
            session.stats.decode_seconds += worker.decode_seconds

    async def _answer_in_batches(self, session: Session, rows: ServiceRows) -> None:
        from ...captioners.api.batch.batch_service import BatchService  # imports the library of the service
        from .batch_worker import BatchWorker

        def progress() -> None:
            session.world.watchdog.progress()
            session.records.add_if_due()

        options = self.options
        worker = BatchWorker(
            self.job,
            options,
            functools.partial(self._loader, session.plan),
            rows,
            Asker(session.store, None, options.generation, self.usage),
            session.store,
            self.usage,
            session.finished.add,
            BatchService(session.service, options.generation.model, max_tries=options.limits.max_tries),
            progress,
            discards_journals=session.plan.discards_journals,
        )
        try:
            await worker.run(session.tasks)
        finally:
            session.records.add()

    def _loader(self, plan: RankPlan, rows: Iterable[ClipTask]) -> ClipLoader:
        job = self.job
        return ClipLoader(
            rows,
            self.source.preparation,
            job.decoder_limits,
            prefetch=self.options.limits.concurrency,
            workers=job.decode_workers or default_decode_workers(plan.host_workers),
            prefetch_bytes=PREFETCH_BYTES,
        )

    def report_plan(self, options: JobOptions, plan: RankPlan) -> None:
        store = StoredAnswers(self.options.answers, self.job.output, self.options.pay_again)
        asker = Asker(store, None, self.options.generation, self.usage)
        for line in dry_run.report(options, plan, self.source, self.options, asker):
            logger.info("%s", line)
        store.close()
