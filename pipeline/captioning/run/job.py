"""The steps of a run: plan, caption, gather, write. Knows nothing about the model and the framework."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..clips.media import names_image
from ..journal.run_journals import RunJournals
from ..meta.files import backup_of
from ..meta.names import column_list
from ..meta.ranges import row_name
from ..monitor.progress_log import ProgressLog
from ..process.errors import EXIT_DONE, EXIT_FAILED, UsageError
from ..process.watchdog import Watchdog
from ..workers.heartbeat import FailedElsewhere
from ..workers.launch import Launch
from ..workers.world import World
from . import delivery
from .fingerprints import COMPUTING_TYPE, check_same_settings
from .finished_rows import MassFailure
from .options import JobOptions
from .planning import LeaderPlan, RankPlan, plan_run
from .rank_stats import RankStats
from .rank_work import RankWork
from .report import make_report, summary

logger = logging.getLogger(__name__)


def run(options: JobOptions, work: RankWork, launch: Launch, watchdog: Watchdog) -> int:
    """Caption the meta table; returns the exit code.

    watchdog: records when this rank last made progress.

    Raises:
        UsageError, RunError: see their docstrings; the failure has been reported to the other ranks.
    """
    if launch.launcher != "plain":
        logger.info("started by %s: waiting for all %d workers", launch.launcher, launch.world_size)
    return run_in_world(options, work, work.join(launch, watchdog))


def run_in_world(options: JobOptions, work: RankWork, world: World) -> int:
    """Do one rank's part of a run; returns the exit code.

    Raises:
        UsageError, RunError: as in `run`.
    """
    return in_world(world, lambda: run_rows(options, work, world))


def in_world(world: World, body: Callable[[], int]) -> int:
    """Do one rank's part of what the ranks do together, and leave the world; returns the exit code of `body`.

    Raises:
        UsageError, RunError: those of `body`; the failure has been reported to the other ranks.
    """
    try:
        exit_code = body()
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

    journals: open until the end of the run, so that the journal of this rank stays locked until all is written.
    begin: when the run began, on the clock of `time.monotonic`.
    """

    options: JobOptions
    work: RankWork
    world: World
    journals: RunJournals
    begin: float

    def caption_and_deliver(self, plan: RankPlan) -> int:
        """Caption the rows of the plan and write the outputs; returns the run's exit code, the same on all ranks."""
        planned, options, world = time.monotonic(), self.options, self.world
        computing_type = self._prepare(plan)
        if computing_type is not None:
            plan = dataclasses.replace(plan, fingerprint={**plan.fingerprint, COMPUTING_TYPE: computing_type})
        if plan.leader is not None:
            for line in self.work.describe():
                logger.info("%s", line)
            _log_plan(options, plan, plan.leader)
        log = ProgressLog(plan.total_rows, lambda: world.snapshot, note=self.work.progress_note, unit=self.work.unit)
        with log if world.is_leader else contextlib.nullcontext():
            stats = self._caption(plan, time.monotonic() - planned)
            rank_stats = [RankStats(**values) for values in world.gather_json(dataclasses.asdict(stats))]
        results = delivery.gather_results(self.journals, plan.leader, options.pad_length)
        if plan.leader is not None and results is not None:
            seconds = time.monotonic() - self.begin
            world.decide(_write_results(options, plan, plan.leader, results, rank_stats, seconds, self.work.unit))
        exit_code = world.exit_code()
        if exit_code != EXIT_DONE:
            self.journals.forget_failures()
        return exit_code

    def _prepare(self, plan: RankPlan) -> str | None:
        """Do all remaining checks; then remove earlier journals that are not used.

        Returns the computing type; None if this rank has nothing to caption.

        Raises:
            UsageError: the weights do not fit, the device is missing, the model can't compute in the computing type, or
                the computing types differ; no journal has been changed.
        """
        try:
            computing_type = self.work.prepare() if plan.has_work else None
            # A collective: no rank opens a journal before all ranks have come this far.
            _check_computing_types(plan, self.world.gather_json(computing_type))
        except UsageError:
            self.journals.remove_unused()
            raise
        if self.options.restart or plan.discards_journals:
            self.journals.remove_earlier()
            self.world.barrier()
        return computing_type

    def _caption(self, plan: RankPlan, prepare_seconds: float) -> RankStats:
        world = self.world
        if not plan.has_work:
            if plan.has_isolated:
                world.barrier()
            return RankStats()
        journal = self.journals.open(plan.fingerprint, plan.run, plan.total_rows, plan.ranks)
        stats = RankStats(load_seconds=prepare_seconds)
        try:
            self.work.run(self.options, plan, journal, world, stats)
        except MassFailure:
            self.journals.ask_to_forget_failures()
            raise
        journal.release()
        world.report_counts(journal.durable, stats.failed_rows, 1)
        return stats


def run_rows(options: JobOptions, work: RankWork, world: World) -> int:
    """Do one rank's part of a run, without leaving the world; returns the exit code. See `World.begin_next_run`.

    Raises:
        UsageError, RunError: see their docstrings.
    """
    begin = time.monotonic()
    # Before the first collective: if a file can't be read, no other rank has to wait for a timeout.
    source, asks = work.source, work.source.asks
    table = work.read_table(options) if world.is_leader else None
    fingerprint = source.fingerprint()
    check_same_settings(world, fingerprint)
    if table is not None and any(map(names_image, table.paths)):
        fingerprint = {**fingerprint, **source.image_fingerprint()}
    with RunJournals(world, options.output) as journals:
        try:
            plan = plan_run(world, journals, table, options, asks, fingerprint, work.redo(options))
        except UsageError:
            journals.remove_unused()
            raise
        if work.only_reports:
            work.report_plan(options, plan)
            journals.remove_unused()
            return EXIT_DONE
        if not plan.is_done:
            exit_code = _Job(options, work, world, journals, begin).caption_and_deliver(plan)
        else:
            exit_code = EXIT_DONE
            if plan.leader is not None:
                _log_plan(options, plan, plan.leader)
        world.barrier()  # no rank may remove a folder that another rank still reads
        if exit_code == EXIT_DONE:
            journals.remove()
        work.ended()
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
    unit: str,
) -> int:
    """Write the outputs and log the summary, on rank 0; returns the run's exit code."""
    if results.failed and not results.captioned:
        row, _, failure = next(results.failures())
        logger.error(
            "none of %d rows could be captioned, so no output is written; for example row %d (%s): %s",
            len({row for row, _, _ in results.failures()}),
            row,
            row_name(leader.table.paths[row], leader.table.range_of(row)),
            failure,
        )
        return EXIT_FAILED
    report = make_report(options, plan, leader, results, rank_stats, seconds)
    delivery.write_outputs(options.output, leader, results, report)
    for level, line in summary(report, unit):
        logger.log(level, "%s", line)
    logger.info("wrote %s", options.output)
    return EXIT_DONE
