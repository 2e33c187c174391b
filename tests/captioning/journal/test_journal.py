"""Journals survive the death of a worker, full disks and removed files."""

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
from pipeline.captioning.meta.results import CaptionResult, Failure, RowResult, caption_result
from pipeline.captioning.process.errors import RunError

FINGERPRINT = {"prompt": "p"}


def _caption(row: int) -> RowResult:
    return RowResult(row, {"text": CaptionResult(f"caption {row}, ü", 3)})


def _results(path: Path) -> list[RowResult]:
    return [RowResult.from_json(line.decode()) for line in read_result_lines(path)]


def _die(journal: Journal) -> None:
    """Leave the journal as a killed process does: with the file as it is, and without a lock."""
    journal._file.close()


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    first = f"process {os.getpid()} on {re.escape(socket.gethostname())}, since "
    with Journal(tmp_path, 0, FINGERPRINT), pytest.raises(RunError, match=f"another run is writing .*{first}"):
        Journal(tmp_path, 0, FINGERPRINT)
    with Journal(tmp_path, 0, FINGERPRINT), pytest.raises(RunError, match="another run is writing"):
        remove_journals(tmp_path)


def test_the_message_says_how_to_end_the_writer_of_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, FINGERPRINT), pytest.raises(RunError) as raised:
        Journal(tmp_path, 0, FINGERPRINT)
    message = str(raised.value)
    assert message.endswith(f"wait for it, or end it on {socket.gethostname()} with: kill {os.getpid()}")
    assert "pkill" not in message


def test_files_that_no_run_created_are_not_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "journal"
    with Journal(folder, 0, FINGERPRINT) as journal:
        journal.finish([_caption(1)])
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


def test_failures_of_all_ranks_are_forgotten_if_one_rank_asks(tmp_path: Path) -> None:
    for rank in range(2):
        with Journal(tmp_path, rank, FINGERPRINT) as journal:
            journal.finish([RowResult.failed(rank, ["text"], "path", ["x"])])
    assert not asks_to_forget_failures(tmp_path)
    ask_to_forget_failures(tmp_path, 1)
    assert asks_to_forget_failures(tmp_path)
    forget_failures(tmp_path)
    assert read_contents(tmp_path).finished == {}
    assert not asks_to_forget_failures(tmp_path)


def test_results_are_read_as_written(tmp_path: Path) -> None:
    with Journal(tmp_path, 3, FINGERPRINT) as journal:
        journal.start([1, 2])
        journal.finish([_caption(1), RowResult.failed(2, ["text"], "decode", ["a: b", "c"])])
    contents = read_contents(tmp_path)
    assert (contents.fingerprints, contents.finished, contents.deaths) == ([FINGERPRINT], {"text": {1, 2}}, {})
    assert _results(journal.path) == [_caption(1), RowResult.failed(2, ["text"], "decode", ["a: b", "c"])]


def test_a_death_during_a_retry_does_not_count_as_a_second_death(tmp_path: Path) -> None:
    for retry in (False, True):
        journal = Journal(tmp_path, 0, FINGERPRINT)
        journal.start([4, 5, 6], retry)
        journal.finish([_caption(4)])
        _die(journal)
    contents = read_contents(tmp_path)
    assert (contents.deaths, contents.retried, contents.finished) == ({5: 1, 6: 1}, {5, 6}, {"text": {4}})


def test_a_journal_removed_while_it_is_open_is_restored_completely(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with Journal(folder, 0, FINGERPRINT) as journal:
        journal.finish([_caption(1)])
        shutil.rmtree(folder)
        journal.finish([_caption(2)])
        journal.sync()
        assert read_contents(folder).finished == {"text": {1, 2}}
        with pytest.raises(RunError, match="another run"):
            Journal(folder, 0, FINGERPRINT)
        shutil.rmtree(folder)
        journal.finish([_caption(3)])
    assert read_contents(folder).finished == {"text": {1, 2, 3}}


def _limit_file_size(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """A function that limits the size of files, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield _limit_file_size
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path, small_disk: Callable[[int], None]) -> None:
    with (
        pytest.raises(RunError, match=r"can't write the journal .*rank-00000.*File too large"),
        Journal(tmp_path, 0, FINGERPRINT) as journal,
    ):
        small_disk(journal.path.stat().st_size + 1000)
        for row in range(100):
            journal.start([row])
            journal.finish([_caption(row)])
    small_disk(resource.RLIM_INFINITY)
    finished = read_contents(tmp_path).finished["text"]
    assert finished == set(range(len(finished))) and len(finished) > 5
    with Journal(tmp_path, 0, FINGERPRINT) as journal:
        journal.finish([_caption(99)])
    assert read_contents(tmp_path).finished == {"text": finished | {99}}


def test_rows_in_flight_at_a_death_are_counted(tmp_path: Path) -> None:
    for _ in range(2):  # neither journal is released: the worker died
        journal = Journal(tmp_path, 0, FINGERPRINT)
        journal.start([4, 5])
        journal.finish([_caption(4)])
        _die(journal)
    assert read_contents(tmp_path).deaths == {5: 2}
    assert read_contents(tmp_path).finished == {"text": {4}}


def test_released_rows_are_not_counted_as_deaths(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, FINGERPRINT) as journal:
        journal.start([4])
    assert read_contents(tmp_path).deaths == {}


def test_an_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0, FINGERPRINT)
    journal.finish([_caption(1), _caption(2)])
    _die(journal)
    whole = journal.path.read_bytes()
    for cut in range(1, 20):
        journal.path.write_bytes(whole[:-cut])
        assert read_contents(tmp_path).finished == {"text": {1}}
        with Journal(tmp_path, 0, FINGERPRINT) as again:
            again.finish([_caption(3)])
        assert read_contents(tmp_path).finished == {"text": {1, 3}}
        assert read_contents(tmp_path).fingerprints == [FINGERPRINT]


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 0, FINGERPRINT)
    journal.finish([_caption(1)])
    journal.path.write_bytes(journal.path.read_bytes().replace(b"caption 1", b'"'))
    with pytest.raises(RunError, match="line 3 is damaged"):
        read_contents(tmp_path)


def test_failures_can_be_forgotten(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, FINGERPRINT) as journal:
        journal.finish([_caption(1), RowResult.failed(2, ["text"], "decode", ["x"])])
    forget_failures(tmp_path)
    assert read_contents(tmp_path).finished == {"text": {1}}
    assert [result.row for result in _results(journal.path)] == [1]
    with Journal(tmp_path, 0, FINGERPRINT) as journal:
        journal.finish([RowResult.failed(2, ["text"], "decode", ["y"])])
    assert read_contents(tmp_path).finished == {"text": {1, 2}}


def test_different_folders_have_different_ids(tmp_path: Path) -> None:
    assert folder_id(tmp_path / "a") == folder_id(tmp_path / "a")
    assert folder_id(tmp_path / "a") != folder_id(tmp_path / "b")
    remove_folder(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("text", "caption"), [(" a\n b\r\nc ", "a b c"), ("x\ty", "x y")])
def test_newlines_become_spaces(text: str, caption: str) -> None:
    assert caption_result(text, 2, False) == CaptionResult(caption, 2)


def test_an_empty_caption_is_a_failure() -> None:
    assert caption_result(" \n ", 1, False) == Failure("text", ("the model generated no text (1 tokens)",))


def test_characters_that_can_not_be_encoded_are_written_as_question_marks(tmp_path: Path) -> None:
    """Names of folders may contain bytes that are not UTF-8, and messages quote these names."""
    with Journal(tmp_path, 0, FINGERPRINT) as journal:
        journal.finish([RowResult.failed(3, ["text"], "path", ["no such file (relative to /data/\udcff)"])])
    assert _results(journal.path) == [RowResult.failed(3, ["text"], "path", ["no such file (relative to /data/?)"])]
