"""The work of a run whose captions a service makes. One process; needs no framework."""

from __future__ import annotations

from ..captioners.api.options import ServiceOptions
from ..captioners.api.source import ServiceSource
from ..journal.journal import Journal
from ..process.watchdog import Watchdog
from ..workers.launch import Launch
from ..workers.world import World, solo_world
from .options import JobOptions
from .planning import RankPlan
from .rank_stats import RankStats
from .rank_work import RankWork

COMPUTING_TYPE_OF_SERVICES = "service"


class ServiceWork(RankWork):
    """Captions the rows through a service.

    options: of the service.
    """

    source: ServiceSource

    def __init__(self, source: ServiceSource, options: ServiceOptions) -> None:
        self.source, self.options = source, options
        self.only_reports = options.dry_run

    def warnings(self, launch: Launch) -> list[str]:
        return []

    def join(self, launch: Launch, watchdog: Watchdog) -> World:
        return solo_world(watchdog=watchdog)

    def prepare(self) -> str:
        return COMPUTING_TYPE_OF_SERVICES

    def describe(self) -> list[str]:
        return self.source.describe()

    def run(self, options: JobOptions, plan: RankPlan, journal: Journal, world: World, stats: RankStats) -> None:
        raise NotImplementedError
