"""No process outlives its launcher, though nothing tells it: msrun's workers live in sessions of their own.

What a launcher starts becomes a supervisor, and its child does the work. The supervisor always wakes up in time; the
child may not, because MindSpore holds the interpreter's lock while it waits for others.
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

from .errors import EXIT_FAILED
from .watchdog import Watchdog

logger = logging.getLogger(__name__)

LEAVE_SECONDS = 7.0
_POLL_SECONDS = 0.2
_STALL_GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask Linux for SIGKILL when `parent`, this process's parent, dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_FAILED)


def waits(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a launcher of this command line stays for as long as its workers.

    msrun without `--join` does not, nor need a shell that has started ranks by hand.
    """
    joins = "--join=True" in command or "--join True" in " ".join(command)
    return joins or "TORCHELASTIC_RUN_ID" in environment


def supervise(is_worker: bool, watchdog: Watchdog) -> int | None:
    """Returns None in a child process; in this one, when that has ended, its exit code.

    Signals are passed on to the child. It dies with this process. If the launcher dies, and is one that waits,
    a worker is told so by SIGTERM, and whatever is left after LEAVE_SECONDS is killed. msrun's scheduler is
    given these seconds too: without it workers abort.

    watchdog: of the child. A child that should have ended itself for want of progress is killed; if even that
        does not end it, because a disk or a driver holds it in the kernel, it is left behind.
    """
    supervisor, launcher = os.getpid(), os.getppid()
    watched = _waits(launcher)
    child = os.fork()
    if child == 0:
        die_with_parent(supervisor)
        os.setpgid(0, 0)  # Ctrl-C reaches it through the supervisor alone: a second one would cut it short
        return None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(child, number))
    leaving: float | None = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if watchdog.overdue():
                logger.error("the worker made no progress for too long (--stall_timeout) and was ended; see its stacks")
            return max(EXIT_FAILED, os.waitstatus_to_exitcode(status)) if status else 0
        overdue = watchdog.overdue()
        if overdue > _STALL_GRACE_SECONDS:
            os.kill(child, signal.SIGKILL)
        if overdue > 2 * _STALL_GRACE_SECONDS:
            logger.error("the worker makes no progress and cannot be killed: its disk or its device hangs; leaving it")
            return EXIT_FAILED
        if leaving is None and watched and os.getppid() != launcher:
            leaving = time.monotonic()
            _leave(child, is_worker)
        if leaving is not None and time.monotonic() - leaving > LEAVE_SECONDS:
            os.kill(child, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _waits(launcher: int) -> bool:
    try:
        return waits(psutil.Process(launcher).cmdline(), os.environ)
    except psutil.Error:
        return False


def _leave(child: int, is_worker: bool) -> None:
    logger.error("the launcher is gone; ending, at the latest in %g s", LEAVE_SECONDS)
    if is_worker:
        os.kill(child, signal.SIGTERM)
    _end_log_followers()


def _end_log_followers() -> None:
    """End each `tail -f` by which msrun showed the logs of workers, orphans like this process.

    Its worker may have ended before, so those of all logs beside this process's own are looked for.
    """
    logs = os.path.dirname(os.readlink(f"/proc/self/fd/{sys.stdout.fileno()}"))
    for process in psutil.process_iter(["name", "ppid", "cwd", "cmdline"]):
        about = process.info
        if about["name"] == "tail" and about["ppid"] == os.getppid() and about["cwd"]:
            with contextlib.suppress(psutil.Error, OSError):
                log = os.path.join(about["cwd"], about["cmdline"][-1])
                if os.path.samefile(os.path.dirname(log), logs):
                    process.kill()
