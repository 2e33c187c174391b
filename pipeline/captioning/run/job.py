"""The steps of a run: plan, caption, gather, write. Knows nothing about the model and the framework."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..backends import Backend, Choice
from ..captioners.base import CaptionerSource
from ..clips.downloads.urls import without_credentials
from ..clips.media import names_image
from ..journal.run_journals import RunJournals
from ..meta.files import backup_of
from ..meta.names import column_list
from ..meta.table import MetaTable
from ..monitor.progress_log import ProgressLog
from ..process.errors import EXIT_DONE, EXIT_FAILED, UsageError
from ..process.watchdog import Watchdog
from ..workers.heartbeat import FailedElsewhere
from ..workers.launch import Launch
from ..workers.world import World, join_world, solo_world
from . import delivery
from .fingerprints import COMPUTING_TYPE, check_same_settings
from .finished_rows import MassFailure
from .options import JobOptions
from .planning import LeaderPlan, RankPlan, plan_run
from .rank_stats import RankStats
from .redo import MarkedRows
from .report import make_report, summary
from .work import RankWorker

logger = logging.getLogger(__name__)


def run(options: JobOptions, source: CaptionerSource, choice: Choice, launch: Launch, watchdog: Watchdog) -> int:
    """Caption the meta table; returns the exit code.

    watchdog: records when this rank last made progress.

    Raises:
        UsageError, RunError: see their docstrings; the failure has been reported to the other ranks.
    """
    if launch.launcher == "plain":
        # A single process imports the framework only if there is something to caption.
        return run_in_world(options, source, lambda: choice.activate(options.dtype), solo_world(watchdog=watchdog))
    logger.info("started by %s: waiting for all %d workers", launch.launcher, launch.world_size)
    backend = choice.activate(options.dtype)
    return run_in_world(options, source, lambda: backend, join_world(launch, backend.device, watchdog))


def run_in_world(options: JobOptions, source: CaptionerSource, activate: Callable[[], Backend], world: World) -> int:
    """Do one rank's part of a run; returns the exit code.

    activate: imports the framework and returns it.

    Raises:
        UsageError, RunError: as in `run`.
    """
    try:
        exit_code = _run(options, source, activate, world)
    except BaseException as error:
        if not isinstance(error, FailedElsewhere):
            world.report_failure(f"{type(error).__name__}: {error}")
        world.close(in_order=False)
        raise
    world.close(in_order=True)
    return exit_code


@dataclass(frozen=True)
class _Job:
    """One rank's part of a run; the values that all its steps need.

    activate: imports the framework and returns it.
    journals: open until the end of the run, so that the journal of this rank stays locked until all is written.
    begin: when the run began, on the clock of `time.monotonic`.
    """

    options: JobOptions
    source: CaptionerSource
    activate: Callable[[], Backend]
    world: World
    journals: RunJournals
    begin: float

    def caption_and_deliver(self, plan: RankPlan) -> int:
        """Caption the rows of the plan and write the outputs; returns the run's exit code, the same on all ranks."""
        planned, options, world = time.monotonic(), self.options, self.world
        backend = self._prepare(plan)
        if backend is not None:
            plan = dataclasses.replace(plan, fingerprint={**plan.fingerprint, COMPUTING_TYPE: backend.dtype_name})
        if plan.leader is not None:
            _log_choices(self.source, backend)
            _log_plan(options, plan, plan.leader)
        with ProgressLog(plan.total_rows, lambda: world.snapshot) if world.is_leader else contextlib.nullcontext():
            stats = self._caption(backend, plan, time.monotonic() - planned)
            rank_stats = [RankStats(**values) for values in world.gather_json(dataclasses.asdict(stats))]
        results = delivery.gather_results(self.journals, plan.leader, options.pad_length)
        if plan.leader is not None and results is not None:
            seconds = time.monotonic() - self.begin
            world.decide(_write_results(options, plan, plan.leader, results, rank_stats, seconds))
        exit_code = world.exit_code()
        if exit_code != EXIT_DONE:
            self.journals.forget_failures()
        return exit_code

    def _prepare(self, plan: RankPlan) -> Backend | None:
        """Import the framework and do all remaining checks; then remove earlier journals if `--restart` is given.

        Returns the framework; None if this rank has nothing to caption.

        Raises:
            UsageError: the weights do not fit, the device is missing, the model can't compute in the computing type, or
                the computing types differ; no journal has been changed.
        """
        backend = None
        try:
            if plan.has_work:
                backend = self.activate()
                self.source.check_dtype(backend.dtype_name)
                self.source.check_weights()
            # A collective: no rank opens a journal before all ranks have come this far.
            _check_computing_types(plan, self.world.gather_json(backend.dtype_name if backend else None))
        except UsageError:
            self.journals.remove_unused()
            raise
        if self.options.restart:
            self.journals.remove_earlier()
            self.world.barrier()
        return backend

    def _caption(self, backend: Backend | None, plan: RankPlan, prepare_seconds: float) -> RankStats:
        world = self.world
        if backend is None:
            if plan.has_isolated:
                world.barrier()
            return RankStats()
        journal = self.journals.open(plan.fingerprint, plan.run, plan.total_rows, plan.ranks)
        try:
            worker = RankWorker(self.options, self.source, backend, journal, world)
            worker.stats.load_seconds = prepare_seconds
            stats = worker.run(plan)
        except MassFailure:
            self.journals.ask_to_forget_failures()
            raise
        journal.release()
        world.report_counts(journal.durable, stats.failed_rows, 1)
        return stats


def _run(options: JobOptions, source: CaptionerSource, activate: Callable[[], Backend], world: World) -> int:
    begin = time.monotonic()
    # Before the first collective: if a file can't be read, no other rank has to wait for a timeout.
    asks = source.asks
    table = MetaTable.read(options.meta_path, asks.columns, asks.cell_uses) if world.is_leader else None
    fingerprint = source.fingerprint()
    check_same_settings(world, fingerprint)
    if table is not None and any(map(names_image, table.paths)):
        fingerprint = {**fingerprint, **source.image_fingerprint()}
    with RunJournals(world, options.output) as journals:
        try:
            plan = plan_run(world, journals, table, options, asks, fingerprint, MarkedRows(options))
        except UsageError:
            journals.remove_unused()
            raise
        if not plan.is_done:
            exit_code = _Job(options, source, activate, world, journals, begin).caption_and_deliver(plan)
        else:
            exit_code = EXIT_DONE
            if plan.leader is not None:
                _log_plan(options, plan, plan.leader)
        world.barrier()  # no rank may remove a folder that another rank still reads
        if exit_code == EXIT_DONE:
            journals.remove()
    return exit_code


def _check_computing_types(plan: RankPlan, found: Sequence[str | None]) -> None:
    """Check that all captions of the table are computed in the same type.

    found: the computing type of each rank; None for a rank that captions nothing.

    Raises:
        UsageError: the types differ between ranks, or from those in the journals; raised on all ranks.
    """
    types = {dtype for dtype in found if dtype is not None}
    if len(types) > 1:
        ranks = "; ".join(f"rank {rank}: {dtype}" for rank, dtype in enumerate(found) if dtype is not None)
        raise UsageError(f"the ranks' devices compute in different types ({ranks}); give --dtype")
    others = set(plan.computing_types) - types
    if types and others:
        raise UsageError(
            f"the interrupted run computed its captions in {', '.join(sorted(others))}, this one computes in "
            f"{types.pop()}. Give --dtype to resume that run, or --restart to discard its captions"
        )


def _log_choices(source: CaptionerSource, backend: Backend | None) -> None:
    """Log which model options, framework and device were chosen, and why."""
    if source.family:
        logger.info("family %s", source.family)
    for line in source.describe():
        logger.info("%s", line)
    if backend is not None:
        logger.info("%s on %s in %s: %s", backend.framework, backend.device, backend.dtype_name, backend.reason)


def _log_plan(options: JobOptions, plan: RankPlan, leader: LeaderPlan) -> None:
    """Log how many rows there are of each kind, and which texts the run replaces."""
    rows, parts = leader.plan, []
    kept = "already have a caption" if len(rows.columns) == 1 else "captions exist already"
    for count, what in (
        (rows.kept_captions, f"{kept} (--skip_if_existing)"),
        (len(rows.finished), "are finished in the journals of an interrupted run"),
        (
            len(rows.retries),
            "were in flight when a worker died: they are captioned later, in small batches",
        ),
        (len(rows.isolated), "were in flight when a worker died: they are captioned last, one at a time"),
        (len(rows.quarantined), "were in flight at two deaths of a worker: they are quarantined"),
        (len(rows.excluded), "are beyond --limit"),
    ):
        if count:
            parts.append(f"{count} {what}")
    logger.info(
        "%s: %d rows, %d to caption%s",
        options.meta_path,
        len(leader.table.paths),
        plan.total_rows,
        "".join(f"; {part}" for part in parts),
    )
    if plan.is_done:
        logger.info("nothing is left to caption; %s is unchanged", options.output)
        return
    _warn_of_replaced(options, leader)
    if leader.other_captions:
        logger.info("columns of %s that the new output keeps: %s", options.output, column_list(leader.other_captions))


def _warn_of_replaced(options: JobOptions, leader: LeaderPlan) -> None:
    backup = backup_of(options.output).name
    for counts, file, message in (
        (leader.replaced_captions, options.output, f"captions, which this run replaces (they are kept in {backup})"),
        (leader.replaced_texts, options.meta_path, "texts, which the output replaces"),
    ):
        for column, count in counts.items():
            logger.warning(
                "column %r of %s holds %d %s; give --skip_if_existing to keep them", column, file, count, message
            )
    if leader.lost_columns:
        logger.warning(
            "%s has columns that the new output will not have, because %s has not (%s): they are kept in %s. To add "
            "captions to a captioned table, caption that table, with another --output",
            options.output,
            options.meta_path,
            column_list(leader.lost_columns),
            backup,
        )


def _write_results(
    options: JobOptions,
    plan: RankPlan,
    leader: LeaderPlan,
    results: delivery.RunResults,
    rank_stats: list[RankStats],
    seconds: float,
) -> int:
    """Write the outputs and log the summary, on rank 0; returns the run's exit code."""
    if results.failed and not results.captioned:
        row, _, failure = next(results.failures())
        logger.error(
            "none of %d rows could be captioned, so no output is written; for example row %d (%s): %s",
            len({row for row, _, _ in results.failures()}),
            row,
            without_credentials(leader.table.paths[row]),
            failure,
        )
        return EXIT_FAILED
    report = make_report(options, plan, leader, results, rank_stats, seconds)
    delivery.write_outputs(options.output, leader, results, report)
    for level, line in summary(report):
        logger.log(level, "%s", line)
    logger.info("wrote %s", options.output)
    return EXIT_DONE
