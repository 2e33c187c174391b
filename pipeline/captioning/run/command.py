"""The main function of every captioning command: check flags and environment, start the run, return the exit code.

Knows nothing about models and services: the caller passes the parser and the function that makes the rank's work.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..meta.table import MetaTable
from ..process import supervisor
from ..process.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE_ERROR, RunError, UsageError, print_usage_error
from ..process.exit_report import ExitReport
from ..process.signals import interruption
from ..process.watchdog import Watchdog
from ..workers.launch import Launch
from ..workers.world import run_scheduler
from . import job, options, prompt_flags
from .options import JobOptions
from .rank_work import RankWork

logger = logging.getLogger(__name__)

MakeWork = Callable[[argparse.Namespace, JobOptions, Launch], RankWork]
"""Checks the flags of what captions the clips, a model or a service; raises UsageError. Imports no framework."""


@dataclass(frozen=True)
class Started:
    """A command whose flags have been checked.

    stall_timeout: of its workers, in seconds. warnings: for the log.
    run: does this process's part; returns the exit code.
    """

    stall_timeout: float
    warnings: Sequence[str]
    run: Callable[[Launch, Watchdog], int]


Start = Callable[[argparse.Namespace, Launch], Started]
"""Checks the flags of a command; raises UsageError. Imports no framework."""


def main(
    parser: argparse.ArgumentParser,
    make_work: MakeWork,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a command that captions the rows of a table, and return its exit code.

    arguments: the command line; None for that of this process.
    """
    return run_command(parser, functools.partial(_start, make_work), arguments)


def run_command(parser: argparse.ArgumentParser, start: Start, arguments: Sequence[str] | None = None) -> int:
    """Run a command, under a launcher or as a single process, and return its exit code. arguments: as for `main`."""
    launch, watchdog, report = Launch(), Watchdog(enforces=True), ExitReport()
    try:
        launch = Launch.from_environment()
        _set_up_logging(launch)
        if launch.launcher != "plain":
            is_msrun_leader = launch.launcher == "msrun" and launch.is_leader
            exit_code = supervisor.supervise(not launch.is_scheduler, watchdog, report, is_msrun_leader)
            if exit_code is not None:
                return exit_code
        faulthandler.enable()  # a crash of a library writes the stacks of all threads to the log
        exit_code = _run(parser, start, arguments, launch, watchdog)
        report.report(exit_code)
        return exit_code
    except UsageError as error:
        if launch.reports_usage_errors:
            print_usage_error(parser.prog, error)
        return EXIT_USAGE_ERROR
    except RunError as error:
        logger.error("%s%s", error, f"; {error.hint}" if error.hint else "")
        return EXIT_FAILED
    except KeyboardInterrupt:
        logger.error("interrupted; finished rows are in the journal: run the same command again to resume")
        return EXIT_FAILED


def _run(
    parser: argparse.ArgumentParser,
    start: Start,
    arguments: Sequence[str] | None,
    launch: Launch,
    watchdog: Watchdog,
) -> int:
    started = start(parser.parse_args(arguments), launch)
    if launch.is_scheduler:
        run_scheduler()
        return EXIT_DONE
    interruption.install()
    watchdog.timeout = started.stall_timeout
    if launch.is_leader:
        for warning in started.warnings:
            logger.warning("%s", warning)
    return started.run(launch, watchdog)


def _start(make_work: MakeWork, flags: argparse.Namespace, launch: Launch) -> Started:
    asks = prompt_flags.check_prompt_flags(flags)
    job_options = options.job_options(flags, asks.columns)
    has_ranges = False
    if launch.rank == 0:  # the meta table need not exist on other hosts
        table = job_options.meta_path, job_options.output
        has_ranges = MetaTable.check(*table, asks.columns, asks.cell_uses, job_options.whole_files)
    work = make_work(flags, job_options, launch)
    if has_ranges:
        work.check_ranges(job_options)
    return Started(job_options.stall_timeout, work.warnings(launch), functools.partial(job.run, job_options, work))


def _set_up_logging(launch: Launch) -> None:
    rank = "" if launch.launcher == "plain" else f" rank {launch.rank}"
    logging.basicConfig(
        level=logging.WARNING,
        format=f"%(asctime)s{rank} %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    # Warnings of every rank and library are logged, information only from this package on rank 0.
    logging.getLogger("pipeline.captioning").setLevel(logging.INFO if launch.is_leader else logging.WARNING)
