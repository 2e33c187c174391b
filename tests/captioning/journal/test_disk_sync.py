"""A slow, a full and a hung disk under a journal."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.captioning.journal import disk_sync as journal_sync
from pipeline.captioning.journal.folder import journal_path, read_contents
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.results import RowResult
from pipeline.captioning.process.errors import RunError

_fsync = os.fsync


def _caption(row: int) -> RowResult:
    return RowResult(row=row, caption=f"caption {row}", tokens=3)


def _wait_until(holds: Callable[[], bool], patience: float = 10) -> bool:
    deadline = time.monotonic() + patience
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


def _sync_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sync of")]


class _Disk:
    """Stands in for `os.fsync`: waits until it may answer, or raises `error`."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.error: OSError | None = None
        self.asked = 0

    def fsync(self, descriptor: int) -> None:
        self.asked += 1
        self.answers.wait(30)
        if self.error is not None:
            raise self.error
        _fsync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Disk]:
    disk = _Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(journal_sync, "SYNC_SECONDS", 0.02)
    yield disk
    disk.answers.set()


def test_finish_does_not_wait_for_a_slow_disk(tmp_path: Path, disk: _Disk) -> None:
    with Journal(tmp_path, 0, {}) as book:
        disk.answers.clear()
        asked = disk.asked
        begin = time.monotonic()
        book.start([1, 2, 3])
        book.finish([_caption(1), _caption(2)])
        assert _wait_until(lambda: disk.asked > asked)
        book.finish([_caption(3)])  # while the disk is at work
        assert time.monotonic() - begin < 5
        assert read_contents(tmp_path).finished == {1, 2, 3}, "a kill of this process must not lose them"
        assert book.durable == 0
        disk.answers.set()
        assert _wait_until(lambda: book.durable == 3)


def test_results_written_while_the_disk_is_at_work_are_not_called_durable(tmp_path: Path, disk: _Disk) -> None:
    with Journal(tmp_path, 0, {}) as book:
        disk.answers.clear()
        asked = disk.asked
        book.finish([_caption(1)])
        assert _wait_until(lambda: disk.asked == asked + 1)
        book.finish([_caption(2)])
        journal_sync.SYNC_SECONDS = 60.0  # the fixture puts it back
        disk.answers.set()
        assert _wait_until(lambda: book.durable > 0)
        assert book.durable == 1
        book.sync()
        assert book.durable == 2


def test_rows_in_flight_reach_the_disk_without_a_result(tmp_path: Path, disk: _Disk) -> None:
    with Journal(tmp_path, 0, {}) as book:
        asked = disk.asked
        book.start([1])
        assert _wait_until(lambda: disk.asked > asked)
        time.sleep(0.1)
        assert disk.asked == asked + 1, "with nothing new to sync, the disk is left alone"


def test_the_disk_is_asked_at_most_once_in_sync_seconds(
    tmp_path: Path, disk: _Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_sync, "SYNC_SECONDS", 0.3)
    with Journal(tmp_path, 0, {}) as book:
        asked, begin = disk.asked, time.monotonic()
        for row in range(100):
            book.finish([_caption(row)])
            time.sleep(0.01)
        assert 1 <= disk.asked - asked <= (time.monotonic() - begin) / 0.3 + 1


def test_an_error_of_the_disk_is_raised_by_the_next_call_and_stays(tmp_path: Path, disk: _Disk) -> None:
    told = rf"can't write the journal {journal_path(tmp_path, 0)}: .*No space left.* safe: mend that"
    with pytest.raises(RunError, match=told), Journal(tmp_path, 0, {}) as book:
        asked = disk.asked
        disk.error = OSError(errno.ENOSPC, "No space left on device")
        book.finish([_caption(1)])
        assert _wait_until(lambda: disk.asked > asked and not _sync_threads())
        disk.error = None  # a later success proves nothing about what was lost
        for call in (lambda: book.start([2]), lambda: book.finish([_caption(2)]), book.sync):
            with pytest.raises(RunError, match=told):
                call()
        assert book.durable == 0
    assert read_contents(tmp_path).finished == {1, 2}


def test_an_error_of_the_disk_does_not_hide_what_ended_the_run(tmp_path: Path, disk: _Disk) -> None:
    with pytest.raises(KeyError, match="the cause"), Journal(tmp_path, 0, {}):
        disk.error = OSError(errno.EIO, "Input/output error")
        raise KeyError("the cause")


def test_a_disk_that_never_answers_holds_finish_back(
    tmp_path: Path, disk: _Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_sync, "STALL_SECONDS", 0.3)
    rows: list[int] = []

    def caption() -> None:
        for row in range(300):
            book.finish([_caption(row)])
            rows.append(row)
            time.sleep(0.01)

    with Journal(tmp_path, 0, {}) as book:
        disk.answers.clear()
        worker = threading.Thread(target=caption)
        worker.start()
        assert _wait_until(lambda: "has not confirmed" in caplog.text)
        held = len(rows)
        time.sleep(0.2)
        assert 1 <= held == len(rows) < 300
        assert held in read_contents(tmp_path).finished, "it is written before finish waits"
        disk.answers.set()
        worker.join(60)
        assert len(rows) == 300
    assert book.durable == 300


def test_a_slow_disk_that_answers_now_and_then_holds_nobody_back(
    tmp_path: Path, disk: _Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_sync, "STALL_SECONDS", 1.0)

    def slow(descriptor: int) -> None:
        time.sleep(0.2)
        _fsync(descriptor)

    with Journal(tmp_path, 0, {}) as book:
        monkeypatch.setattr(os, "fsync", slow)
        for row in range(150):
            book.finish([_caption(row)])
            time.sleep(0.01)
    assert "has not confirmed" not in caplog.text


def test_release_waits_for_the_disk(tmp_path: Path, disk: _Disk) -> None:
    with Journal(tmp_path, 0, {}) as book:
        disk.answers.clear()
        book.finish([_caption(1)])
        threading.Timer(0.2, disk.answers.set).start()
        begin = time.monotonic()
        book.release()
        assert time.monotonic() - begin > 0.1 and book.durable == 1
    assert not _sync_threads(), "the thread ends with its journal"


def test_a_journal_nobody_uses_any_more_lets_go_of_its_lock(tmp_path: Path) -> None:
    book = Journal(tmp_path, 0, {})
    book.start([3])
    del book
    gc.collect()
    assert _wait_until(lambda: not _sync_threads())
    with Journal(tmp_path, 0, {}):
        pass
    assert read_contents(tmp_path).deaths == {3: 1}


def test_a_journal_removed_again_and_again_while_results_are_written_loses_nothing(tmp_path: Path, disk: _Disk) -> None:
    folder = tmp_path / "journal"
    ends = threading.Event()
    removed = 0

    def remove() -> None:
        nonlocal removed
        while not ends.wait(0.03):
            removed += (folder / "rank-00000.jsonl").exists()
            shutil.rmtree(folder, ignore_errors=True)

    with Journal(folder, 0, {}) as book:
        remover = threading.Thread(target=remove)
        remover.start()
        for row in range(300):
            book.finish([_caption(row)])
            time.sleep(0.002)
        ends.set()
        remover.join()
    assert removed > 3
    assert read_contents(folder).finished == set(range(300))


_SCRIPT = """
import os, sys, time
from pathlib import Path
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.results import RowResult
book = Journal(Path(sys.argv[1]), 0, {})
book.start([1, 2])
if sys.argv[2] == "hung":
    os.fsync = lambda descriptor: time.sleep(600)
book.finish([RowResult(1, "a caption", tokens=3)])
if sys.argv[2] == "hung":
    time.sleep(2.5)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("end", "exit_code"), [("exit", 0), ("hung", 0), ("killed", -signal.SIGKILL)])
def test_the_end_of_the_process_is_not_held_up_and_loses_nothing(tmp_path: Path, end: str, exit_code: int) -> None:
    process = subprocess.run([sys.executable, "-c", _SCRIPT, str(tmp_path), end], capture_output=True, timeout=60)
    assert (process.returncode, process.stderr) == (exit_code, b"")
    report = read_contents(tmp_path)
    assert (report.finished, report.deaths) == ({1}, {2: 1})


def test_what_a_looker_reads_is_written_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, {}, rows=9) as book:
        book.loaded()
        book.lease([4, 5])
        records = [json.loads(line) for line in book.path.read_text().splitlines()]
    assert records[1]["rows"] == 9
    assert records[2]["loaded"].endswith("+00:00") and len(records[2]["loaded"]) == len("2026-11-21T10:00:00.000+00:00")
    assert records[3] == {"lease": [4, 5]}
