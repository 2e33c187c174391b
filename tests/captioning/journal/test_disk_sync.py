"""A journal on a slow, a full and a hanging disk."""

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

from pipeline.captioning.journal import disk_sync
from pipeline.captioning.journal.folder import journal_path, read_contents
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.results import CaptionResult, RowResult
from pipeline.captioning.process.errors import RunError

_fsync = os.fsync


def _caption(row: int) -> RowResult:
    return RowResult(row, {"text": CaptionResult(f"caption {row}", 3)})


def _wait_until_true(condition: Callable[[], bool], timeout: float = 10) -> bool:
    """Poll until `condition` is true or `timeout` seconds have passed; returns the last value of `condition`."""
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def _sync_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("sync of")]


class _Disk:
    """Replaces `os.fsync`: waits until `answers` is set, then raises `error` or syncs. calls: number of calls."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.error: OSError | None = None
        self.calls = 0

    def fsync(self, descriptor: int) -> None:
        self.calls += 1
        self.answers.wait(30)
        if self.error is not None:
            raise self.error
        _fsync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Disk]:
    disk = _Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    monkeypatch.setattr(disk_sync, "SYNC_SECONDS", 0.02)
    yield disk
    disk.answers.set()


def test_finish_does_not_wait_for_a_slow_disk(tmp_path: Path, disk: _Disk) -> None:
    with Journal(tmp_path, 0, {}) as journal:
        disk.answers.clear()
        calls = disk.calls
        begin = time.monotonic()
        journal.start([1, 2, 3])
        journal.finish([_caption(1), _caption(2)])
        assert _wait_until_true(lambda: disk.calls > calls)
        journal.finish([_caption(3)])  # while the sync is running
        assert time.monotonic() - begin < 30
        assert read_contents(tmp_path).finished == {"text": {1, 2, 3}}, "a kill of this process must not lose them"
        assert journal.durable == 0
        disk.answers.set()
        assert _wait_until_true(lambda: journal.durable == 3)


def test_results_written_during_a_sync_are_not_durable_after_it(tmp_path: Path, disk: _Disk) -> None:
    with Journal(tmp_path, 0, {}) as journal:
        disk.answers.clear()
        calls = disk.calls
        journal.finish([_caption(1)])
        assert _wait_until_true(lambda: disk.calls == calls + 1)
        journal.finish([_caption(2)])
        disk_sync.SYNC_SECONDS = 60.0  # the fixture restores it
        disk.answers.set()
        assert _wait_until_true(lambda: journal.durable > 0)
        assert journal.durable == 1
        journal.sync()
        assert journal.durable == 2


def test_rows_in_flight_are_synced_without_a_result(tmp_path: Path, disk: _Disk) -> None:
    with Journal(tmp_path, 0, {}) as journal:
        calls = disk.calls
        journal.start([1])
        assert _wait_until_true(lambda: disk.calls > calls)
        time.sleep(0.1)
        assert disk.calls == calls + 1, "without new data there is no sync"


def test_there_is_at_most_one_sync_in_sync_seconds(
    tmp_path: Path, disk: _Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_sync, "SYNC_SECONDS", 0.3)
    with Journal(tmp_path, 0, {}) as journal:
        calls, begin = disk.calls, time.monotonic()
        for row in range(100):
            journal.finish([_caption(row)])
            time.sleep(0.01)
        assert 1 <= disk.calls - calls <= (time.monotonic() - begin) / 0.3 + 1


def test_a_disk_error_is_raised_by_every_later_call(tmp_path: Path, disk: _Disk) -> None:
    message = rf"can't write the journal {journal_path(tmp_path, 0)}: .*No space left.* safe: fix the cause"
    with pytest.raises(RunError, match=message), Journal(tmp_path, 0, {}) as journal:
        calls = disk.calls
        disk.error = OSError(errno.ENOSPC, "No space left on device")
        journal.finish([_caption(1)])
        assert _wait_until_true(lambda: disk.calls > calls and not _sync_threads())
        disk.error = None  # a later success proves nothing about what was lost
        for call in (lambda: journal.start([2]), lambda: journal.finish([_caption(2)]), journal.sync):
            with pytest.raises(RunError, match=message):
                call()
        assert journal.durable == 0
    assert read_contents(tmp_path).finished == {"text": {1, 2}}


def test_a_disk_error_does_not_hide_an_earlier_exception(tmp_path: Path, disk: _Disk) -> None:
    with pytest.raises(KeyError, match="the cause"), Journal(tmp_path, 0, {}):
        disk.error = OSError(errno.EIO, "Input/output error")
        raise KeyError("the cause")


def test_finish_blocks_if_the_disk_does_not_answer(
    tmp_path: Path, disk: _Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_sync, "STALL_SECONDS", 0.3)
    rows: list[int] = []

    def caption() -> None:
        for row in range(300):
            journal.finish([_caption(row)])
            rows.append(row)
            time.sleep(0.01)

    with Journal(tmp_path, 0, {}) as journal:
        disk.answers.clear()
        worker = threading.Thread(target=caption)
        worker.start()
        assert _wait_until_true(lambda: "has not confirmed" in caplog.text)
        count = len(rows)
        time.sleep(0.2)
        assert 1 <= count == len(rows) < 300
        assert count in read_contents(tmp_path).finished["text"], "finish writes the row before it blocks"
        disk.answers.set()
        worker.join(60)
        assert len(rows) == 300
    assert journal.durable == 300


def test_finish_does_not_block_on_a_slow_disk_that_answers(
    tmp_path: Path, disk: _Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_sync, "STALL_SECONDS", 1.0)

    def slow(descriptor: int) -> None:
        time.sleep(0.2)
        _fsync(descriptor)

    with Journal(tmp_path, 0, {}) as journal:
        monkeypatch.setattr(os, "fsync", slow)
        for row in range(150):
            journal.finish([_caption(row)])
            time.sleep(0.01)
    assert "has not confirmed" not in caplog.text


def test_release_waits_for_the_disk(tmp_path: Path, disk: _Disk) -> None:
    with Journal(tmp_path, 0, {}) as journal:
        disk.answers.clear()
        journal.finish([_caption(1)])
        threading.Timer(0.2, disk.answers.set).start()
        begin = time.monotonic()
        journal.release()
        assert time.monotonic() - begin > 0.1 and journal.durable == 1
    assert not _sync_threads(), "the thread ends with its journal"


def test_a_journal_without_references_releases_its_lock(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0, {})
    journal.start([3])
    del journal
    gc.collect()
    assert _wait_until_true(lambda: not _sync_threads())
    with Journal(tmp_path, 0, {}):
        pass
    assert read_contents(tmp_path).deaths == {3: 1}


def test_a_journal_that_is_removed_repeatedly_during_writes_loses_nothing(tmp_path: Path, disk: _Disk) -> None:
    folder = tmp_path / "journal"
    is_written = threading.Event()
    removed = 0

    def remove() -> None:
        nonlocal removed
        while not is_written.wait(0.03):
            removed += (folder / "rank-00000.jsonl").exists()
            shutil.rmtree(folder, ignore_errors=True)

    with Journal(folder, 0, {}) as journal:
        remover = threading.Thread(target=remove)
        remover.start()
        for row in range(300):
            journal.finish([_caption(row)])
            time.sleep(0.002)
        is_written.set()
        remover.join()
    assert removed > 3
    assert read_contents(folder).finished == {"text": set(range(300))}


_SCRIPT = """
import os, sys, time
from pathlib import Path
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.results import CaptionResult, RowResult
journal = Journal(Path(sys.argv[1]), 0, {})
journal.start([1, 2])
if sys.argv[2] == "hung":
    os.fsync = lambda descriptor: time.sleep(600)
journal.finish([RowResult(1, {"text": CaptionResult("a caption", 3)})])
if sys.argv[2] == "hung":
    time.sleep(2.5)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("end", "exit_code"), [("exit", 0), ("hung", 0), ("killed", -signal.SIGKILL)])
def test_the_end_of_the_process_is_not_delayed_and_loses_nothing(tmp_path: Path, end: str, exit_code: int) -> None:
    process = subprocess.run([sys.executable, "-c", _SCRIPT, str(tmp_path), end], capture_output=True, timeout=60)
    assert (process.returncode, process.stderr) == (exit_code, b"")
    contents = read_contents(tmp_path)
    assert (contents.finished, contents.deaths) == ({"text": {1}}, {2: 1})


def test_records_for_progress_are_written_immediately(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, {}, rows=9) as journal:
        journal.loaded()
        journal.lease([4, 5])
        records = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert records[1]["rows"] == 9
    assert records[2]["loaded"].endswith("+00:00") and len(records[2]["loaded"]) == len("2026-11-21T10:00:00.000+00:00")
    assert records[3] == {"lease": [4, 5]}
