"""Journals survive what kills a worker."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.captioning.journal.folder import (
    ask_to_forget_failures,
    asks_to_forget_failures,
    forget_failures,
    read_contents,
    remove_folder,
    remove_journals,
)
from pipeline.captioning.journal.folder_id import folder_id
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.journal.reader import read_result_lines
from pipeline.captioning.meta.results import RowResult, caption_result
from pipeline.captioning.process.errors import RunError

FINGERPRINT = {"prompt": "p"}


def _caption(row: int) -> RowResult:
    return RowResult(row=row, caption=f"caption {row}, ü", tokens=3)


def _results(path: Path) -> list[RowResult]:
    return [RowResult.from_json(line.decode()) for line in read_result_lines(path)]


def _die(book: Journal) -> None:
    """What a kill leaves: the file as it is, and no lock."""
    book._file.close()


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    first = f"process {os.getpid()} on {re.escape(socket.gethostname())}, since "
    with Journal(tmp_path, 0, FINGERPRINT), pytest.raises(RunError, match=f"another run is writing .*{first}"):
        Journal(tmp_path, 0, FINGERPRINT)
    with Journal(tmp_path, 0, FINGERPRINT), pytest.raises(RunError, match="another run is writing"):
        remove_journals(tmp_path)


def test_the_writer_of_a_journal_can_be_ended_by_what_the_message_says(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, FINGERPRINT), pytest.raises(RunError) as raised:
        Journal(tmp_path, 0, FINGERPRINT)
    message = str(raised.value)
    assert message.endswith(f"wait for it, or end it on {socket.gethostname()} with: kill {os.getpid()}")
    assert "pkill" not in message


def test_files_of_others_stay_in_a_journal_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "journal"
    with Journal(folder, 0, FINGERPRINT) as book:
        book.finish([_caption(1)])
    (folder / "notes.txt").write_text("mine")
    (folder / "rank-00000.jsonl.bak").write_text("mine")
    for name in (".rank-00000.jsonl.a_b12345.tmp", ".id.0123456789abcdef.tmp"):
        (folder / name).touch()
    remove_folder(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "rank-00000.jsonl.bak"]
    assert str(folder) in caplog.text and "notes.txt, rank-00000.jsonl.bak" in caplog.text
    for path in folder.iterdir():
        path.unlink()
    remove_folder(folder)
    assert not folder.exists()
    remove_folder(folder)


def test_one_rank_asks_to_forget_failures_for_all(tmp_path: Path) -> None:
    for rank in range(2):
        with Journal(tmp_path, rank, FINGERPRINT) as book:
            book.finish([RowResult.failed(rank, "path", ["x"])])
    assert not asks_to_forget_failures(tmp_path)
    ask_to_forget_failures(tmp_path, 1)
    assert asks_to_forget_failures(tmp_path)
    forget_failures(tmp_path)
    assert read_contents(tmp_path).finished == set()
    assert not asks_to_forget_failures(tmp_path)


def test_results_come_back(tmp_path: Path) -> None:
    with Journal(tmp_path, 3, FINGERPRINT) as book:
        book.start([1, 2])
        book.finish([_caption(1), RowResult.failed(2, "decode", ["a: b", "c"])])
    report = read_contents(tmp_path)
    assert (report.fingerprints, report.finished, report.deaths) == ([FINGERPRINT], {1, 2}, {})
    assert _results(book.path) == [_caption(1), RowResult.failed(2, "decode", ["a: b", "c"])]


def test_a_death_during_a_retry_is_no_second_death(tmp_path: Path) -> None:
    for retry in (False, True):
        book = Journal(tmp_path, 0, FINGERPRINT)
        book.start([4, 5, 6], retry)
        book.finish([_caption(4)])
        _die(book)
    report = read_contents(tmp_path)
    assert (report.deaths, report.retried, report.finished) == ({5: 1, 6: 1}, {5, 6}, {4})
    with Journal(tmp_path, 0, FINGERPRINT) as book:
        book.finish([_caption(5)])
    assert read_contents(tmp_path).retried == {6}


def test_a_journal_removed_while_it_is_written_comes_back_whole(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with Journal(folder, 0, FINGERPRINT) as book:
        book.finish([_caption(1)])
        shutil.rmtree(folder)
        book.finish([_caption(2)])
        book.sync()
        assert read_contents(folder).finished == {1, 2}
        with pytest.raises(RunError, match="another run"):
            Journal(folder, 0, FINGERPRINT)
        shutil.rmtree(folder)
        book.finish([_caption(3)])
    assert read_contents(folder).finished == {1, 2, 3}


def _fill_disk(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Lets files grow to so many bytes only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield _fill_disk
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    with (
        pytest.raises(RunError, match=r"can't write the journal .*rank-00000.*File too large"),
        Journal(tmp_path, 0, FINGERPRINT) as book,
    ):
        small_disk(book.path.stat().st_size + 1000)
        for row in range(100):
            book.start([row])
            book.finish([_caption(row)])
    small_disk(resource.RLIM_INFINITY)
    finished = read_contents(tmp_path).finished
    assert finished == set(range(len(finished))) and len(finished) > 5
    with Journal(tmp_path, 0, FINGERPRINT) as book:
        book.finish([_caption(99)])
    assert read_contents(tmp_path).finished == finished | {99}


def test_a_death_leaves_its_rows_in_flight(tmp_path: Path) -> None:
    for _ in range(2):  # neither is closed: the worker died
        book = Journal(tmp_path, 0, FINGERPRINT)
        book.start([4, 5])
        book.finish([_caption(4)])
        _die(book)
    assert read_contents(tmp_path).deaths == {5: 2}
    assert read_contents(tmp_path).finished == {4}


def test_rows_given_up_in_good_order_are_no_deaths(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, FINGERPRINT) as book:
        book.start([4])
    assert read_contents(tmp_path).deaths == {}


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    book = Journal(tmp_path, 0, FINGERPRINT)
    book.finish([_caption(1), _caption(2)])
    _die(book)
    whole = book.path.read_bytes()
    for cut in range(1, 20):
        book.path.write_bytes(whole[:-cut])
        assert read_contents(tmp_path).finished == {1}
        with Journal(tmp_path, 0, FINGERPRINT) as again:
            again.finish([_caption(3)])
        assert read_contents(tmp_path).finished == {1, 3}
        assert read_contents(tmp_path).fingerprints == [FINGERPRINT]


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    book = Journal(tmp_path, 0, FINGERPRINT)
    book.finish([_caption(1)])
    book.path.write_bytes(book.path.read_bytes().replace(b"caption 1", b'"'))
    with pytest.raises(RunError, match="line 3 is damaged"):
        read_contents(tmp_path)


def test_failures_can_be_forgotten(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, FINGERPRINT) as book:
        book.finish([_caption(1), RowResult.failed(2, "decode", ["x"])])
    forget_failures(tmp_path)
    assert read_contents(tmp_path).finished == {1}
    assert [result.row for result in _results(book.path)] == [1]
    with Journal(tmp_path, 0, FINGERPRINT) as book:
        book.finish([RowResult.failed(2, "decode", ["y"])])
    assert read_contents(tmp_path).finished == {1, 2}


def test_folder_ids_tell_folders_apart(tmp_path: Path) -> None:
    assert folder_id(tmp_path / "a") == folder_id(tmp_path / "a")
    assert folder_id(tmp_path / "a") != folder_id(tmp_path / "b")
    remove_folder(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("text", "caption"), [(" a\n b\r\nc ", "a b c"), ("x\ty", "x y")])
def test_newlines_become_spaces(text: str, caption: str) -> None:
    assert caption_result(0, text, 2, False).caption == caption


def test_an_empty_caption_is_a_failure() -> None:
    result = caption_result(5, " \n ", 1, False)
    assert result.caption is None
    assert "no text" in str(result.failure)


def test_what_no_encoding_has_is_written_as_a_question_mark(tmp_path: Path) -> None:
    """Names of folders may hold bytes that are no UTF-8, and messages quote them."""
    with Journal(tmp_path, 0, FINGERPRINT) as book:
        book.finish([RowResult.failed(3, "path", ["no such file (relative to /data/\udcff)"])])
    assert _results(book.path) == [RowResult.failed(3, "path", ["no such file (relative to /data/?)"])]
