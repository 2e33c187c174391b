"""Ends each process of a run when its launcher dies.

Such a process gets no signal when its launcher dies, because msrun starts each worker in a session of its own. So the
process that a launcher starts becomes a supervisor, and its child does the work. The supervisor can always react in
time. The child may not, because MindSpore holds Python's global interpreter lock while it waits for other ranks.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

import psutil

from .errors import EXIT_DONE, EXIT_FAILED
from .exit_report import ExitReport
from .run_end import RunEnd
from .watchdog import Watchdog

logger = logging.getLogger(__name__)

LEAVE_SECONDS = 7.0
"""Time for the child to end after its launcher has died."""
_POLL_SECONDS = 0.2
_STALL_GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask Linux to send SIGKILL to this process when its parent dies.

    parent: process id of the parent. If it has died already, this process exits.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_FAILED)


def waits_for_workers(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a launcher with this command line runs until its workers have ended.

    msrun without `--join` ends before them. A shell that has started ranks by hand may end before them, too.
    """
    joins = "--join=True" in command or "--join True" in " ".join(command)
    return joins or "TORCHELASTIC_RUN_ID" in environment


def supervise(is_worker: bool, watchdog: Watchdog, report: ExitReport, is_leader: bool = False) -> int | None:
    """Start a child process; returns None in the child. In this process, returns the child's exit code after it ended.

    The supervisor passes SIGINT and SIGTERM on to the child. The child dies with the supervisor. If a launcher that
    waits for its workers dies, the supervisor sends SIGTERM to a worker, and SIGKILL to any child that still runs after
    LEAVE_SECONDS. msrun's scheduler gets the same time but no SIGTERM: workers abort if it ends before them.

    is_worker: whether the child captions; False for msrun's scheduler.
    is_leader: whether the child is rank 0 of msrun.
    report: of the child. If the child is ended by a signal after its run, its exit code is the reported one.
    watchdog: of the child. A child without progress should end itself. If it does not, the supervisor kills it. If a
        disk or a driver keeps it in the kernel, the supervisor ends without it.
    """
    supervisor, launcher = os.getpid(), os.getppid()
    launcher_waits, run_end = _launcher_waits(launcher), RunEnd(launcher)
    run_end.remove()  # of an earlier run that was started by hand from the same shell
    child = os.fork()
    if child == 0:
        die_with_parent(supervisor)
        # Ctrl-C must reach the child through the supervisor only: a second signal would end it immediately.
        os.setpgid(0, 0)
        return None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(child, number))
    end_begun: float | None = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if watchdog.overdue():
                logger.error(
                    "the worker made no progress for longer than --stall_timeout and was ended; "
                    "the stacks of its threads are in this log"
                )
            exit_code = os.waitstatus_to_exitcode(status)
            if not is_worker:
                return _scheduler_code(exit_code, run_end)
            if is_leader and report.exit_code == EXIT_DONE:
                run_end.mark()
            return _worker_code(exit_code, report)
        overdue = watchdog.overdue()
        if overdue > _STALL_GRACE_SECONDS:
            os.kill(child, signal.SIGKILL)
        if overdue > 2 * _STALL_GRACE_SECONDS:
            logger.error(
                "the worker makes no progress and cannot be killed, because its disk or its device hangs; "
                "the supervisor ends without it"
            )
            return EXIT_FAILED
        if end_begun is None and launcher_waits and os.getppid() != launcher:
            end_begun = time.monotonic()
            _begin_end(child, is_worker)
        if end_begun is not None and time.monotonic() - end_begun > LEAVE_SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _worker_code(child_code: int, report: ExitReport) -> int:
    """The exit code for that of the child, which is negative if a signal ended it."""
    if child_code >= 0:
        return child_code
    name = signal.Signals(-child_code).name
    if report.exit_code is None:
        logger.error("the worker was ended by signal %d (%s)", -child_code, name)
        return EXIT_FAILED
    logger.warning(
        "the worker was ended by signal %d (%s) while its process shut down; its run had ended with exit code %d",
        -child_code,
        name,
        report.exit_code,
    )
    return report.exit_code


def _scheduler_code(child_code: int, run_end: RunEnd) -> int:
    """The exit code for that of msrun's scheduler, which fails if a worker crashes while it shuts down."""
    ended = run_end.is_marked
    run_end.remove()
    if child_code != EXIT_DONE and ended:
        logger.warning("the scheduler failed while the workers shut down; the run had ended with exit code 0")
        return EXIT_DONE
    return max(EXIT_FAILED, child_code) if child_code else EXIT_DONE


def _launcher_waits(launcher: int) -> bool:
    try:
        return waits_for_workers(psutil.Process(launcher).cmdline(), os.environ)
    except psutil.Error:
        return False


def _begin_end(child: int, is_worker: bool) -> None:
    logger.error("the launcher has died; this process ends within %g s", LEAVE_SECONDS)
    if is_worker:
        os.kill(child, signal.SIGTERM)
    _kill_log_tails()


def _kill_log_tails() -> None:
    """Kill the `tail -f` processes that msrun started to show the logs of its workers.

    Like this process, they lose their parent when msrun dies. A worker's supervisor may have ended before that, so this
    kills the processes for all logs in the folder of this process's log.
    """
    logs = os.path.dirname(os.readlink(f"/proc/self/fd/{sys.stdout.fileno()}"))
    for process in psutil.process_iter(["name", "ppid", "cwd", "cmdline"]):
        info = process.info
        if info["name"] == "tail" and info["ppid"] == os.getppid() and info["cwd"]:
            with contextlib.suppress(psutil.Error, OSError):
                log = os.path.join(info["cwd"], info["cmdline"][-1])
                if os.path.samefile(os.path.dirname(log), logs):
                    process.kill()
