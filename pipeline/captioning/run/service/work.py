"""The work of a run whose captions a service makes. One process; needs no framework."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import resource
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ...captioners.api.asker import Asker
from ...captioners.api.batch import leftovers
from ...captioners.api.batch.records import job_of, open_requests
from ...captioners.api.options import ServiceOptions
from ...captioners.api.pace import Pace
from ...captioners.api.sender import Sender
from ...captioners.api.source import ServiceSource
from ...captioners.api.store import AnswerStore, StoredAnswers
from ...captioners.api.usage import Usage
from ...captioners.named_prompts import frame_warnings
from ...clips.clip import ClipTask
from ...clips.loader import ClipLoader, default_decode_workers
from ...journal.journal import Journal
from ...meta.names import RANGE_COLUMNS
from ...process.errors import UsageError
from ...process.signals import interruption
from ...process.watchdog import Watchdog
from ...workers.launch import Launch
from ...workers.leases import PENDING, RETRIES, LeasedRows, RowTask
from ...workers.world import World, solo_world
from ..finished_rows import SERVICE_FAILURES, FinishedRows
from ..options import JobOptions
from ..planning import RankPlan
from ..rank_stats import RankStats
from ..rank_work import RankWork
from . import dry_run
from .rows import ServiceRows
from .usage_records import UsageRecords
from .worker import ServiceWorker

if TYPE_CHECKING:
    from ...captioners.api.service import Service

logger = logging.getLogger(__name__)

COMPUTING_TYPE_OF_SERVICES = "service"
GRACE_SECONDS = 60.0
"""Time for the answers in flight after Ctrl-C or SIGTERM: they are paid for."""
PREFETCH_BYTES = 256 * 2**20
"""Bytes of encoded frames that wait for their requests."""
_DECODER_START_SECONDS = 300.0


class ServiceWork(RankWork):
    """Captions the rows through a service.

    options: of the service. job: of the run.
    """

    source: ServiceSource

    def __init__(self, source: ServiceSource, options: ServiceOptions, job: JobOptions) -> None:
        self.source, self.options, self._job = source, options, job
        self.only_reports = options.dry_run
        self._store: AnswerStore | None = None
        self._usage = Usage(options.prices)

    def warnings(self, launch: Launch) -> list[str]:
        return frame_warnings(self.source.asks, self.source.sampling)

    def check_ranges(self, options: JobOptions) -> None:
        if self.source.preparation.sends_file:
            raise UsageError(
                f"--send video sends whole files, but rows of {options.meta_path} are parts of their files (columns "
                f"{' and '.join(map(repr, RANGE_COLUMNS))}); give --send images, or --whole_files if the columns mean "
                "something else"
            )

    def join(self, launch: Launch, watchdog: Watchdog) -> World:
        return solo_world(watchdog=watchdog)

    def prepare(self) -> str:
        self._opened_store()
        if not self.options.batch:
            self._check_open_batches()
        return COMPUTING_TYPE_OF_SERVICES

    def _check_open_batches(self) -> None:
        """Without `--batch`: the questions in open batches would be paid twice. With `--restart`, forget the batches.

        Raises:
            UsageError: there are open batches, and no `--restart`.
        """
        store, job = self._opened_store(), job_of(self._job.output)
        batches = leftovers.open_batches(store, job)
        if not batches:
            return
        count = open_requests(batches)
        if not self._job.restart:
            store.close()
            raise UsageError(
                f"{count} requests are in open batches of an interrupted run; give --batch to fetch their answers, or "
                "--restart to forget them"
            )
        asyncio.run(leftovers.forget(store, job, batches))
        ids = leftovers.ids_of(batches) or "not sent yet"
        logger.warning("%d requests in open batches of an interrupted run are forgotten (%s)", count, ids)

    def describe(self) -> list[str]:
        return self.source.describe()

    def progress_note(self) -> str:
        return self._usage.text()

    def run(self, options: JobOptions, plan: RankPlan, journal: Journal, world: World, stats: RankStats) -> None:
        store, service = self._opened_store(), self.options
        self._usage.answers_before, *spent = store.spent()
        self._usage.spent_before = spent[0], spent[1]
        journal.loaded()
        world.watchdog.progress()
        # A batch fails as a whole, so many failures in a row say nothing about the next one.
        most = math.inf if service.batch else SERVICE_FAILURES
        # Rejections arrive before the first answers, at most so many if half of the rows are accepted.
        rejections = math.inf if service.batch else max(SERVICE_FAILURES, 2 * service.limits.concurrency)
        finished = FinishedRows(options, journal, world, stats, most, rejections)
        tasks = _tasks(plan, world, journal)
        try:
            with contextlib.closing(finished), interruption.postponed(min(GRACE_SECONDS, service.limits.timeout)):
                asyncio.run(self._caption(plan, journal, world, stats, finished, tasks))
        except BaseException:
            self._store = None
            store.close()  # answers that have arrived are stored
            logger.info("so far: %s", self._usage.text())
            raise
        finally:
            stats.backend = f"{service.generation.model} at {service.base_url}"
            stats.slots = service.limits.concurrency
            stats.service = {
                "base_url": service.base_url,
                "model": service.generation.model,
                "send": service.visuals.send,
                "concurrency": None if service.batch else service.limits.concurrency,
                "batch": service.batch,
                "answers": str(service.answers),
                "pay_again": service.pay_again,
                "max_cost": service.prices.max_cost if service.prices else None,
                **self._usage.report(),
            }
            stats.peak_memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    async def _caption(
        self,
        plan: RankPlan,
        journal: Journal,
        world: World,
        stats: RankStats,
        finished: FinishedRows,
        tasks: Iterable[RowTask],
    ) -> None:
        from ...captioners.api.service import Service  # imports the library, which a usage error does not need

        options, limits = self.options, self.options.limits
        service = Service(options.base_url, options.api_key, limits.timeout, limits.concurrency)
        rows, store = ServiceRows(self.source), self._opened_store()
        records = UsageRecords(self._usage, journal)
        try:
            if options.batch:
                await self._caption_in_batches(service, plan, world, rows, finished, records, tasks)
                return
            sender = Sender(service, Pace(limits), limits, self._usage)
            worker = ServiceWorker(
                rows,
                Asker(store, sender, options.generation, self._usage),
                sender,
                self._usage,
                finished,
                records,
                world.watchdog,
                functools.partial(self._loader, plan),
                limits.concurrency,
                questions=plan.total_rows * len(self.source.asks.asks),
                clip_seconds=_DECODER_START_SECONDS + 2 * self._job.decode_timeout + self._job.download_timeout,
            )
            try:
                await worker.run(tasks)
            finally:
                stats.decode_wait_seconds += worker.wait_seconds
                stats.decode_seconds += worker.decode_seconds
        finally:
            await service.close()

    async def _caption_in_batches(
        self,
        service: Service,
        plan: RankPlan,
        world: World,
        rows: ServiceRows,
        finished: FinishedRows,
        records: UsageRecords,
        tasks: Iterable[RowTask],
    ) -> None:
        from ...captioners.api.batch.batch_service import BatchService
        from .batch_worker import BatchWorker

        def progress() -> None:
            world.watchdog.progress()
            records.add_if_due()

        options, store = self.options, self._opened_store()
        worker = BatchWorker(
            self._job,
            options,
            functools.partial(self._loader, plan),
            rows,
            Asker(store, None, options.generation, self._usage),
            store,
            self._usage,
            finished.add,
            BatchService(service, options.generation.model, max_tries=options.limits.max_tries),
            progress,
            discards_journals=plan.discards_journals,
        )
        try:
            await worker.run(tasks)
        finally:
            records.add()

    def _loader(self, plan: RankPlan, rows: Iterable[ClipTask]) -> ClipLoader:
        job = self._job
        return ClipLoader(
            rows,
            self.source.preparation,
            job.decoder_limits,
            prefetch=self.options.limits.concurrency,
            workers=job.decode_workers or default_decode_workers(plan.host_workers),
            prefetch_bytes=PREFETCH_BYTES,
        )

    def report_plan(self, options: JobOptions, plan: RankPlan) -> None:
        store = StoredAnswers(self.options.answers, self._job.output, self.options.pay_again)
        asker = Asker(store, None, self.options.generation, self._usage)
        for line in dry_run.report(options, plan, self.source, self.options, asker):
            logger.info("%s", line)
        store.close()

    def ended(self) -> None:
        if self._store is None and not self.options.answers.exists():
            return
        store = self._opened_store()
        store.end_job()
        store.close()

    def _opened_store(self) -> AnswerStore:
        if self._store is None:
            options, job = self.options, self._job
            self._store = AnswerStore(
                options.answers, job.output, options.pay_again, job.restart, options.generation.model
            )
        return self._store


def _tasks(plan: RankPlan, world: World, journal: Journal) -> Iterator[RowTask]:
    """All rows to caption. A row can't be the cause of a death of this process, so none is captioned separately."""
    for kind in (PENDING, RETRIES):
        yield from LeasedRows(functools.partial(world.lease, kind), journal.lease)
    yield from plan.isolated
