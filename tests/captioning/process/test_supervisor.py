"""The processes that a launcher has started end soon after it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.captioning.process.run_end import RunEnd
from pipeline.captioning.process.supervisor import LEAVE_SECONDS
from scripts import launched

SCHEDULER = """
import sys, time
from pipeline.captioning.process.exit_report import ExitReport
from pipeline.captioning.process.supervisor import supervise
from pipeline.captioning.process.watchdog import Watchdog
code = supervise(is_worker=False, watchdog=Watchdog(), report=ExitReport())
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


CRASH = """
import os, signal, sys, time
from pipeline.captioning.process.exit_report import ExitReport
from pipeline.captioning.process.supervisor import supervise
from pipeline.captioning.process.watchdog import Watchdog
role, reported, seconds = sys.argv[1:]
report = ExitReport()
code = supervise(role != "scheduler", Watchdog(), report, is_leader=role == "leader")
if code is None:
    if reported:
        report.report(int(reported))
    print("at work", file=sys.stderr, flush=True)
    time.sleep(float(seconds))
    os.kill(os.getpid(), signal.SIGSEGV)
sys.exit(code)
"""


def _crash(role: str, reported: str = "") -> tuple[int, str]:
    """The exit code and the log of a process whose child crashes, perhaps after it has reported an exit code."""
    done = subprocess.run(
        [sys.executable, "-c", CRASH, role, reported, "0"], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


def test_a_crash_after_the_run_does_not_change_its_exit_code() -> None:
    code, log = _crash("worker")
    assert code == 1 and "signal 11 (SIGSEGV)" in log
    code, log = _crash("worker", "0")
    assert code == 0 and "while its process shut down; its run had ended with exit code 0" in log
    assert _crash("worker", "1")[0] == 1


def test_the_scheduler_may_fail_after_a_run_that_ended_in_order() -> None:
    assert _crash("scheduler")[0] == 1
    assert _crash("leader", "1")[0] == 1 and _crash("scheduler")[0] == 1
    assert _crash("leader", "0")[0] == 0 and _crash("scheduler")[0] == 1, "no scheduler waits for the mark"
    scheduler = subprocess.Popen(["sleep", "60"], env={**os.environ, "MS_ROLE": "MS_SCHED"})
    try:
        ended = RunEnd(os.getpid())
        ended.mark()
        assert ended.is_marked
    finally:
        scheduler.kill()
        scheduler.wait()
    assert _crash("worker", "0")[0] == 0 and not ended.is_marked, "the processes of a new run remove an old mark"
    for seconds, expected in (("0.5", 0), ("0.5", 1)):
        command = [sys.executable, "-c", CRASH, "scheduler", "", seconds]
        waiting = subprocess.Popen(
            command, env={**os.environ, "MS_ROLE": "MS_SCHED"}, stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None and "at work" in waiting.stderr.readline()
        if expected == 0:
            ended.mark()  # as the supervisor of rank 0 does
        assert waiting.wait(timeout=30) == expected
    assert not ended.is_marked


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
