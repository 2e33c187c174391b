"""The whole flow of a run: plan, caption, gather, write. Knows no model and no framework."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

from ..backends import Backend, Choice
from ..captioners.base import CaptionerSource
from ..journal.run_journals import RunJournals
from ..meta.files import backup_of
from ..meta.table import MetaTable
from ..monitor.progress_log import ProgressLog
from ..process.errors import EXIT_DONE, EXIT_FAILED, UsageError
from ..process.watchdog import Watchdog
from ..workers.heartbeat import FailedElsewhere
from ..workers.launch import Launch
from ..workers.world import World, join_world, solo_world
from . import delivery
from .options import JobOptions
from .planning import COMPUTING_TYPE, LeaderPlan, RankPlan, plan_run
from .report import make_report, summary
from .work import MassFailure, RankStats, RankWorker

logger = logging.getLogger(__name__)


def run(options: JobOptions, source: CaptionerSource, choice: Choice, launch: Launch, watchdog: Watchdog) -> int:
    """Caption the meta table; returns the exit code.

    watchdog: notes this rank's progress.

    Raises:
        UsageError, RunError: see their docstrings; the other ranks have been told.
    """
    if launch.launcher == "plain":
        # One process needs the framework only when there is something to caption.
        return run_in_world(options, source, lambda: choice.activate(options.dtype), solo_world(watchdog=watchdog))
    logger.info("started by %s: waiting for all %d workers", launch.launcher, launch.world_size)
    backend = choice.activate(options.dtype)
    return run_in_world(options, source, lambda: backend, join_world(launch, backend.device, watchdog))


def run_in_world(options: JobOptions, source: CaptionerSource, activate: Callable[[], Backend], world: World) -> int:
    """One rank's whole run. activate: imports the framework."""
    try:
        with contextlib.ExitStack() as resources:
            exit_code = _run(options, source, activate, world, resources)
    except BaseException as error:
        if not isinstance(error, FailedElsewhere):
            world.report_failure(f"{type(error).__name__}: {error}")
        world.close(in_order=False)
        raise
    world.close(in_order=True)
    return exit_code


def _run(
    options: JobOptions,
    source: CaptionerSource,
    activate: Callable[[], Backend],
    world: World,
    resources: contextlib.ExitStack,
) -> int:
    """As `run_in_world`. resources: keeps this rank's journal open, and so locked, until everything is written."""
    begin = time.monotonic()
    # Before the first collective: if the table can't be read, no other rank waits for a timeout.
    table = MetaTable.read(options.meta_path) if world.is_leader else None
    journals = RunJournals(world, options.output)
    plan = plan_run(world, journals, table, options, source.fingerprint())
    if plan.is_done:
        if plan.leader is not None:
            _announce(options, plan, plan.leader)
        exit_code = EXIT_DONE
    else:
        planned = time.monotonic()
        backend = _prepare(options, source, activate, world, plan, journals)
        if backend is not None:
            plan = dataclasses.replace(plan, fingerprint={**plan.fingerprint, COMPUTING_TYPE: backend.dtype_name})
        if plan.leader is not None:
            _describe(source, backend)
            _announce(options, plan, plan.leader)
        with ProgressLog(plan.total_rows, lambda: world.snapshot) if world.is_leader else contextlib.nullcontext():
            seconds = time.monotonic() - planned
            stats = _caption(options, source, backend, world, plan, journals, resources, seconds)
            rank_stats = [RankStats(**values) for values in world.gather_json(dataclasses.asdict(stats))]
        delivered = delivery.gather_results(journals, plan.leader, options.pad_length)
        if plan.leader is not None and delivered is not None:
            world.decide(_conclude(options, plan, plan.leader, delivered, rank_stats, time.monotonic() - begin))
        exit_code = world.exit_code()
        if exit_code != EXIT_DONE:
            journals.forget_failures()
    world.barrier()  # no rank removes a folder that another rank still reads
    if exit_code == EXIT_DONE:
        journals.remove()
    return exit_code


def _prepare(
    options: JobOptions,
    source: CaptionerSource,
    activate: Callable[[], Backend],
    world: World,
    plan: RankPlan,
    journals: RunJournals,
) -> Backend | None:
    """Do everything that may still find a usage error, then remove earlier journals if `--restart` is given.

    Returns the framework; None if this rank has nothing to caption.

    Raises:
        UsageError: the weights do not fit, or the device is not there; no journal has been changed.
    """
    backend = None
    try:
        if plan.has_work:
            backend = activate()
            source.check_weights()
        # No rank opens a journal before all ranks have reached this line.
        _check_computing_types(plan, world.gather_json(backend.dtype_name if backend else None))
    except UsageError:
        journals.remove_unused()
        raise
    if options.restart:
        journals.remove_earlier()
        world.barrier()
    return backend


def _check_computing_types(plan: RankPlan, found: Sequence[str | None]) -> None:
    """Captions of one table are computed in one type.

    found: of each rank; None for one that captions nothing.

    Raises:
        UsageError: on all ranks alike.
    """
    types = {dtype for dtype in found if dtype is not None}
    if len(types) > 1:
        ranks = "; ".join(f"rank {rank}: {dtype}" for rank, dtype in enumerate(found) if dtype is not None)
        raise UsageError(f"the ranks' devices compute in different types ({ranks}); give --dtype")
    others = set(plan.computing_types) - types
    if types and others:
        raise UsageError(
            f"an interrupted run computed its captions in {', '.join(sorted(others))}, this one computes in "
            f"{types.pop()}. Give --dtype to continue it, or --restart to discard its captions"
        )


def _caption(
    options: JobOptions,
    source: CaptionerSource,
    backend: Backend | None,
    world: World,
    plan: RankPlan,
    journals: RunJournals,
    resources: contextlib.ExitStack,
    prepare_seconds: float,
) -> RankStats:
    if backend is None:
        if plan.has_isolated:
            world.barrier()
        return RankStats()
    journal = resources.enter_context(journals.open(plan.fingerprint, plan.run, plan.total_rows, plan.ranks))
    try:
        worker = RankWorker(options, source, backend, journal, world)
        worker.stats.load_seconds = prepare_seconds
        stats = worker.run(plan)
    except MassFailure:
        journals.ask_to_forget_failures()
        raise
    journal.release()
    world.report_counts(journal.durable, stats.failed, 1)
    return stats


def _describe(source: CaptionerSource, backend: Backend | None) -> None:
    """Tell the choices that were made, and why."""
    for line in source.describe():
        logger.info("%s", line)
    if backend is not None:
        logger.info("%s on %s in %s: %s", backend.framework, backend.device, backend.dtype_name, backend.reason)


def _announce(options: JobOptions, plan: RankPlan, leader: LeaderPlan) -> None:
    rows, parts = leader.plan, []
    for count, what in (
        (len(rows.kept), "have a caption already (--skip_if_existing)"),
        (len(rows.finished), "are finished in the journals of an interrupted run"),
        (len(rows.retries), "were in flight when workers died and come later, in small batches"),
        (len(rows.isolated), "were in flight when a worker died and come last, one by one"),
        (len(rows.quarantined), "were in flight at two deaths of a worker and are given up"),
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
    backup = backup_of(options.output).name
    for count, place, message in (
        (leader.replaced_captions, options.output, f"captions, which this run replaces ({backup} keeps them)"),
        (leader.replaced_texts, f"column 'text' of {options.meta_path}", "texts, which the output replaces"),
    ):
        if count and plan.total_rows:
            logger.warning("%s holds %d %s; --skip_if_existing takes them over", place, count, message)
    if plan.is_done:
        logger.info("nothing is left to caption; %s stays as it is", options.output)


def _conclude(
    options: JobOptions,
    plan: RankPlan,
    leader: LeaderPlan,
    delivered: delivery.Delivered,
    rank_stats: list[RankStats],
    seconds: float,
) -> int:
    """Write the outputs and the summary, on rank 0; returns the run's exit code."""
    pending = len(delivered.captions) + len(delivered.failures)
    if pending and not delivered.captions:
        row, failure = next(iter(delivered.failures.items()))
        logger.error(
            "none of %d rows could be captioned, so nothing is written; for example row %d (%s): %s",
            pending,
            row,
            leader.table.paths[row],
            failure,
        )
        return EXIT_FAILED
    report = make_report(options, plan, leader, delivered, rank_stats, seconds)
    delivery.write_outputs(options.output, leader, delivered, report)
    for level, line in summary(report):
        logger.log(level, "%s", line)
    logger.info("wrote %s", options.output)
    return EXIT_DONE
