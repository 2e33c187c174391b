"""The interface between the job and the work of one rank: a model in this process, or a service, captions the rows."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ..captioners.base import Source
from ..journal.journal import Journal
from ..meta.table import MetaTable
from ..process.watchdog import Watchdog
from ..workers.launch import Launch
from ..workers.world import World
from .earlier_captions import Redo
from .options import JobOptions
from .planning import RankPlan
from .rank_stats import RankStats
from .redo import MarkedRows


class RankWork(ABC):
    """How a rank captions its rows.

    source: what is asked, and what the captions depend on.
    unit: what the rows are, in the plural, for the log.
    only_reports: the run ends after `report_plan`; it captions nothing and writes nothing.
    """

    source: Source
    unit: str = "clips"
    only_reports: bool = False

    def read_table(self, options: JobOptions) -> MetaTable:
        """Read the table of the rows. Is called on rank 0.

        Raises:
            UsageError: as `MetaTable.read`.
        """
        asks = self.source.asks
        return MetaTable.read(options.meta_path, asks.columns, asks.cell_uses, options.whole_files)

    def redo(self, options: JobOptions) -> Redo:
        """Which existing captions count as missing, with `--skip_if_existing`."""
        return MarkedRows(options)

    def check_ranges(self, options: JobOptions) -> None:
        """Check that rows may be parts of their files. Is called early if the table has such rows.

        Raises:
            UsageError: only whole files can be captioned with these settings.
        """
        return None

    @abstractmethod
    def warnings(self, launch: Launch) -> list[str]:
        """Warnings about how the run was started, for the log."""

    @abstractmethod
    def join(self, launch: Launch, watchdog: Watchdog) -> World:
        """Join the other ranks; wait until all have joined."""

    @abstractmethod
    def prepare(self) -> str:
        """Do all checks that remain; returns the computing type. Is called if the rank may get rows.

        Raises:
            UsageError: the rows can't be captioned with these settings.
        """

    @abstractmethod
    def describe(self) -> list[str]:
        """Lines for the log: what was chosen, and why."""

    @abstractmethod
    def run(self, options: JobOptions, plan: RankPlan, journal: Journal, world: World, stats: RankStats) -> None:
        """Lease and caption rows until no row is left. When this returns, every result is in the journal.

        stats: receives the figures of the work.

        Raises:
            MassFailure: see `FinishedRows`.
            RunError: no row can be captioned any more.
            KeyboardInterrupt: a signal interrupted the run.
        """

    def progress_note(self) -> str:
        """What a line of progress says in addition, for example the cost so far; '' for nothing. Thread-safe."""
        return ""

    def report_plan(self, options: JobOptions, plan: RankPlan) -> None:
        """Log what the run would do, if `only_reports`."""
        raise NotImplementedError

    def ended(self) -> None:
        """All rows of the run have a result. The next run is a new one, and does not resume this one."""
        return None
