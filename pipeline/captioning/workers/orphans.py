"""Workers whose launcher was killed outright: nothing tells them, and msrun's live in sessions of their own."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence

import psutil

from ..errors import EXIT_BROKEN

logger = logging.getLogger(__name__)

LEAVE_SECONDS = 7.0


def leave_with_launcher() -> None:
    """End this process when its launcher dies, if that is one that waits for its workers.

    As after SIGTERM; and after LEAVE_SECONDS whatever the process is doing.
    """
    launcher = os.getppid()
    try:
        command = psutil.Process(launcher).cmdline()
    except psutil.Error:
        return
    if waits(command, os.environ):
        threading.Thread(target=_watch, args=(launcher,), name="launcher-watch", daemon=True).start()


def waits(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a launcher of this command line stays for as long as its workers.

    msrun without `--join` does not, nor need a shell that has started ranks by hand.
    """
    joins = "--join=True" in command or ("--join", "True") in itertools.pairwise(command)
    return joins or "TORCHELASTIC_RUN_ID" in environment


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    logger.error("the launcher is gone; ending, at the latest in %g s", LEAVE_SECONDS)
    _end_log_follower()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_SECONDS)
    os._exit(EXIT_BROKEN)


def _end_log_follower() -> None:
    """End the `tail -f` by which msrun showed this worker's log: an orphan like the worker itself."""
    log = os.fstat(sys.stdout.fileno())
    for process in psutil.process_iter(["name", "ppid", "cwd", "cmdline"]):
        about = process.info
        if about["name"] == "tail" and about["ppid"] == os.getppid() and about["cwd"]:
            with contextlib.suppress(psutil.Error, OSError):
                if os.path.samestat(os.stat(os.path.join(about["cwd"], about["cmdline"][-1])), log):
                    process.kill()
