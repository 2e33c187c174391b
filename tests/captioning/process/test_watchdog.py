"""The watchdog ends a worker without progress, and writes the stacks of its threads to its log."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.captioning.process.watchdog import Watchdog
from tests.fakes import render_clip

ROOT = Path(__file__).resolve().parents[3]

HANGS = """
import ctypes, sys
from pipeline.captioning.run import command, run_flags
from pipeline.captioning.run.model_work import model_work
from tests.fakes import FakeSource

def on_batch(clips):
    if clips[0].row == 1:
        hang_with_the_interpreter_locked()

def hang_with_the_interpreter_locked():
    ctypes.PyDLL(None).sleep(600)

make_work = model_work(lambda flags: FakeSource(on_batch=on_batch))
sys.exit(command.main(run_flags.make_parser("caption", ""), make_work, sys.argv[1:]))
"""

SUPERVISED = """
import faulthandler, signal, sys, time
from pipeline.captioning.process import supervisor
from pipeline.captioning.process.exit_report import ExitReport
from pipeline.captioning.process.watchdog import Watchdog

supervisor._STALL_GRACE_SECONDS = 1.0
watchdog = Watchdog(enforces=True)
code = supervisor.supervise(is_worker=True, watchdog=watchdog, report=ExitReport())
if code is None:
    watchdog.timeout = 0.5
    watchdog.progress()
    faulthandler.cancel_dump_traceback_later()  # now the process cannot end itself
    time.sleep(600)
sys.exit(code)
"""


def _run(script: str, *arguments: str, folder: Path) -> tuple[int, str, float]:
    begin = time.monotonic()
    command = [sys.executable, "-c", script, *arguments]
    ended = subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=300
    )
    return ended.returncode, ended.stderr, time.monotonic() - begin


def test_a_hanging_device_ends_the_run_and_the_log_shows_where_it_hangs(tmp_path: Path) -> None:
    """The hanging thread holds the global interpreter lock. Finished rows stay in the journal."""
    clips = [render_clip(tmp_path / f"{number}.mp4", number) for number in range(3)]
    (tmp_path / "meta.csv").write_text("path\n" + "".join(f"{clip}\n" for clip in clips))
    flags = ["meta.csv", "--decode_workers", "1", "--framework", "torch", "--device", "cpu"]
    code, log, seconds = _run(HANGS, *flags, "--stall_timeout", "3", folder=tmp_path)
    assert code == 1 and seconds < 120
    assert "hang_with_the_interpreter_locked" in log and "Timeout (0:00:0" in log
    journal = (tmp_path / "meta_caption.csv.journal" / "rank-00000.jsonl").read_text()
    assert '{"row": 0, "captions"' in journal and '{"start": [1]}' in journal and '{"row": 1' not in journal


def test_the_supervisor_kills_a_worker_that_cannot_end_itself(tmp_path: Path) -> None:
    code, log, seconds = _run(SUPERVISED, folder=tmp_path)
    assert code != 0 and seconds < 120
    assert "--stall_timeout" in log


def test_time_is_measured_from_the_last_progress_and_not_while_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watchdog = Watchdog()
    watchdog.timeout = 30.0
    assert watchdog.since_progress() is None
    watchdog.progress()
    now[0] += 12
    assert watchdog.since_progress() == (12.0, 30.0)
    watchdog.progress()
    now[0] += 3
    assert watchdog.since_progress() == (3.0, 30.0)
    watchdog.pause()
    now[0] += 1000
    assert watchdog.since_progress() is None and watchdog.overdue() == 0


def test_allowed_time_holds_until_the_next_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watchdog = Watchdog()
    watchdog.timeout = 30.0
    watchdog.allow(500.0)
    assert watchdog.since_progress() is None, "paused"
    watchdog.progress()
    for _ in range(3):  # a repeated call extends nothing: the time is measured from the last progress
        now[0] += 20
        watchdog.allow(500.0)
    assert watchdog.since_progress() == (60.0, 500.0)
    watchdog.progress()
    assert watchdog.since_progress() == (0.0, 30.0)


def test_the_deadline_is_read_from_shared_memory() -> None:
    watchdog = Watchdog(enforces=True)
    watchdog.timeout = 3600.0
    watchdog.progress()
    assert watchdog.overdue() == 0
    watchdog._set_deadline(time.monotonic() - 5)
    assert 5 <= watchdog.overdue() < 60
    watchdog.pause()
    assert watchdog.overdue() == 0
