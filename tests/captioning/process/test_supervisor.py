"""The processes that a launcher has started end soon after it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from pipeline.captioning.process.supervisor import LEAVE_SECONDS
from scripts import launched

SCHEDULER = """
import sys, time
from pipeline.captioning.process.supervisor import supervise
from pipeline.captioning.process.watchdog import Watchdog
code = supervise(is_worker=False, watchdog=Watchdog())
if code is None:
    print("at work", flush=True)
    time.sleep(600)
"""
LAUNCHER = f"""
import subprocess, sys, time
log = open("logs/scheduler.log", "w")
subprocess.Popen([sys.executable, "-c", {SCHEDULER!r}], stdout=log, stderr=log, start_new_session=True)
subprocess.Popen(["tail", "-f", "logs/worker_0.log"])
time.sleep(600)
"""


def test_the_scheduler_and_the_log_follower_of_an_ended_worker_end_with_the_launcher(tmp_path: Path) -> None:
    """msrun shows logs with `tail -f`. Here it is killed when only its scheduler remains."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker_0.log").touch()
    (tmp_path / "other.log").touch()
    unrelated = subprocess.Popen(["tail", "-f", str(tmp_path / "other.log")])
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, "--join=True"], cwd=tmp_path)
    try:
        deadline = time.monotonic() + 60
        log = tmp_path / "logs" / "scheduler.log"
        while not log.exists() or "at work" not in log.read_text() or len(launched.processes(tmp_path)) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        launcher.kill()
        launcher.wait()
        deadline = time.monotonic() + LEAVE_SECONDS + 3
        while left := launched.processes(tmp_path):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
        assert unrelated.poll() is None
    finally:
        for process in (launcher, unrelated):
            process.kill()
            process.wait()
