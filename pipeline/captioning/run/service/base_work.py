"""What all runs through a service have in common: the store, the pace, the figures, the end. One process.

Needs no framework. Knows nothing about what a row is: a clip (`work`), or a video whose captions are summarised
(`summaries`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import resource
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...captioners.api.options import ServiceOptions
from ...captioners.api.pace import Pace
from ...captioners.api.sender import Sender
from ...captioners.api.store import AnswerStore
from ...captioners.api.usage import Usage
from ...journal.journal import Journal
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
from .loop import LoopParts
from .usage_records import UsageRecords

if TYPE_CHECKING:
    from ...captioners.api.service import Service  # imports the library of the service

logger = logging.getLogger(__name__)

COMPUTING_TYPE_OF_SERVICES = "service"
GRACE_SECONDS = 60.0
"""Time for the answers in flight after Ctrl-C or SIGTERM: they are paid for."""


@dataclass(frozen=True)
class Session:
    """The parts of a run that exist while it asks.

    service: is closed at the end of the session.
    tasks: all rows.
    """

    service: Service
    store: AnswerStore
    plan: RankPlan
    world: World
    stats: RankStats
    finished: FinishedRows
    records: UsageRecords
    tasks: Iterator[RowTask]


class ServiceRankWork(RankWork):
    """Answers the questions about rows through a service.

    options: of the service. job: of the run.
    usage: the figures of this run.
    """

    def __init__(self, options: ServiceOptions, job: JobOptions) -> None:
        self.options, self.job = options, job
        self.only_reports = options.dry_run
        self.usage = Usage(options.prices)
        self._store: AnswerStore | None = None

    @abstractmethod
    async def answer(self, session: Session) -> None:
        """Ask the questions about all rows. When this returns, each row is finished.

        Raises:
            ServiceStop, RunError: see `ServiceLoop.loop`.
        """

    def settings(self) -> dict[str, Any]:
        """Settings for the report."""
        service = self.options
        return {
            "base_url": service.base_url,
            "model": service.generation.model,
            "concurrency": None if service.batch else service.limits.concurrency,
            "batch": service.batch,
            "answers": str(service.answers),
            "pay_again": service.pay_again,
            "max_cost": service.prices.max_cost if service.prices else None,
        }

    def warnings(self, launch: Launch) -> list[str]:
        return []

    def join(self, launch: Launch, watchdog: Watchdog) -> World:
        return solo_world(watchdog=watchdog)

    def prepare(self) -> str:
        self.opened_store()
        return COMPUTING_TYPE_OF_SERVICES

    def describe(self) -> list[str]:
        return self.source.describe()

    def progress_note(self) -> str:
        return self.usage.text()

    def run(self, options: JobOptions, plan: RankPlan, journal: Journal, world: World, stats: RankStats) -> None:
        store, service = self.opened_store(), self.options
        self.usage.answers_before, *spent = store.spent()
        self.usage.spent_before = spent[0], spent[1]
        journal.loaded()
        world.watchdog.progress()
        # A batch fails as a whole, so many failures in a row say nothing about the next one.
        most = math.inf if service.batch else SERVICE_FAILURES
        # Rejections arrive before the first answers, at most so many if half of the rows are accepted.
        rejections = math.inf if service.batch else max(SERVICE_FAILURES, 2 * service.limits.concurrency)
        finished = FinishedRows(options, journal, world, stats, most, rejections)
        try:
            with contextlib.closing(finished), interruption.postponed(min(GRACE_SECONDS, service.limits.timeout)):
                asyncio.run(self._answer(plan, journal, world, stats, finished))
        except BaseException:
            self._store = None
            store.close()  # answers that have arrived are stored
            logger.info("so far: %s", self.usage.text())
            raise
        finally:
            stats.backend = f"{service.generation.model} at {service.base_url}"
            stats.slots = service.limits.concurrency
            stats.service = {**self.settings(), **self.usage.report()}
            stats.peak_memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    async def _answer(
        self, plan: RankPlan, journal: Journal, world: World, stats: RankStats, finished: FinishedRows
    ) -> None:
        from ...captioners.api.service import Service  # imports the library, which a usage error does not need

        options, limits = self.options, self.options.limits
        service = Service(options.base_url, options.api_key, limits.timeout, limits.concurrency)
        records, tasks = UsageRecords(self.usage, journal), _tasks(plan, world, journal)
        try:
            await self.answer(Session(service, self.opened_store(), plan, world, stats, finished, records, tasks))
        finally:
            await service.close()

    def loop_parts(self, session: Session, wait_seconds: float) -> LoopParts:
        """What a loop needs. wait_seconds: time in which a row can be taken at the latest."""
        limits = self.options.limits
        return LoopParts(
            Sender(session.service, Pace(limits), limits, self.usage),
            self.usage,
            session.finished,
            session.records,
            session.world.watchdog,
            limits.concurrency,
            wait_seconds,
            self.job.times_rows,
        )

    def ended(self) -> None:
        if self._store is None and not self.options.answers.exists():
            return
        store = self.opened_store()
        store.end_job()
        store.close()
        self._store = None

    def opened_store(self) -> AnswerStore:
        """The store of paid answers; the first call opens it.

        Raises:
            UsageError: see `AnswerStore`.
        """
        if self._store is None:
            options, job = self.options, self.job
            self._store = AnswerStore(
                options.answers, job.output, options.pay_again, job.restart, options.generation.model
            )
        return self._store


def _tasks(plan: RankPlan, world: World, journal: Journal) -> Iterator[RowTask]:
    """All rows to answer. A row can't be the cause of a death of this process, so none is answered separately."""
    for kind in (PENDING, RETRIES):
        yield from LeasedRows(functools.partial(world.lease, kind), journal.lease)
    yield from plan.isolated
