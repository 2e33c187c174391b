"""The main function of every captioning command: check flags and environment, start the run, return the exit code.

Knows nothing about models and services: the caller passes the parser and the function that makes the rank's work.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence

from ..captioners.named_prompts import frame_warnings
from ..meta.names import RANGE_COLUMNS
from ..meta.table import MetaTable
from ..process import supervisor
from ..process.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE_ERROR, RunError, UsageError, print_usage_error
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


def main(
    parser: argparse.ArgumentParser,
    make_work: MakeWork,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a captioning command and return its exit code.

    arguments: the command line; None for that of this process.
    """
    launch, watchdog = Launch(), Watchdog(enforces=True)
    try:
        launch = Launch.from_environment()
        _set_up_logging(launch)
        if launch.launcher != "plain":
            exit_code = supervisor.supervise(is_worker=not launch.is_scheduler, watchdog=watchdog)
            if exit_code is not None:
                return exit_code
        return _run(parser, make_work, arguments, launch, watchdog)
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
    make_work: MakeWork,
    arguments: Sequence[str] | None,
    launch: Launch,
    watchdog: Watchdog,
) -> int:
    flags = parser.parse_args(arguments)
    asks = prompt_flags.check_prompt_flags(flags)
    job_options = options.job_options(flags, asks.columns)
    has_ranges = False
    if launch.rank == 0:  # the meta table need not exist on other hosts
        table = job_options.meta_path, job_options.output
        has_ranges = MetaTable.check(*table, asks.columns, asks.cell_uses, job_options.whole_files)
    work = make_work(flags, job_options, launch)
    if has_ranges and work.source.preparation.sends_file:
        raise UsageError(
            f"--send video sends whole files, but rows of {job_options.meta_path} are parts of their files (columns "
            f"{' and '.join(map(repr, RANGE_COLUMNS))}); give --send images, or --whole_files if the columns mean "
            "something else"
        )
    warnings = work.warnings(launch)
    if launch.is_scheduler:
        run_scheduler()
        return EXIT_DONE
    interruption.install()
    watchdog.timeout = job_options.stall_timeout
    if launch.is_leader:
        for warning in [*warnings, *frame_warnings(work.source.asks, work.source.sampling)]:
            logger.warning("%s", warning)
    return job.run(job_options, work, launch, watchdog)


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
