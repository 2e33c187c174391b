"""Ranks agree on the id of a journal folder, also on full disks and after an empty id file was left there."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from pipeline.captioning.journal import folder_id as folder_id_module
from pipeline.captioning.journal.folder import remove_unused_folder
from pipeline.captioning.journal.folder_id import folder_id
from pipeline.captioning.process.errors import RunError


def _ids_of_ranks(folder: Path, ranks: int = 8) -> set[str]:
    """The ids that ranks get which call `folder_id` at the same time."""
    found: list[str] = []
    barrier = threading.Barrier(ranks)

    def rank() -> None:
        barrier.wait()
        found.append(folder_id(folder))

    threads = [threading.Thread(target=rank) for _ in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == ranks
    return set(found)


def test_ranks_that_start_at_the_same_time_agree(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / str(number)
        (found,) = _ids_of_ranks(folder)
        assert found and folder_id(folder) == found
        assert [path.name for path in folder.iterdir()] == ["id"]


def test_ranks_agree_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    for number in range(20):
        (found,) = _ids_of_ranks(tmp_path / str(number))
        assert found


def test_all_ranks_replace_an_empty_id_by_the_same_id_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions left an empty id file on a full disk."""
    monkeypatch.setattr(folder_id_module, "_WRITING_SECONDS", 40.0)
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "id").touch()
        os.utime(folder / "id", (time.time() - 60 - number, time.time() - 60 - number))
        begin = time.monotonic()
        (found,) = _ids_of_ranks(folder)
        assert time.monotonic() - begin < 30
        assert found and folder_id(folder) == found == (folder / "id").read_text()


def test_a_full_disk_is_reported_and_leaves_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "journal"
    with monkeypatch.context() as patches:
        patches.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=rf"{folder}.*No space left on device"):
            folder_id(folder)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr(folder_id_module, "_WRITING_SECONDS", 40.0)
    begin = time.monotonic()
    assert folder_id(folder) and time.monotonic() - begin < 30


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to(path)])
def test_an_id_that_can_not_be_read_is_reported(tmp_path: Path, make: object) -> None:
    make(tmp_path / "id")  # type: ignore[operator]
    with pytest.raises(RunError, match=str(tmp_path / "id")):
        folder_id(tmp_path)


def test_a_folder_that_can_not_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=f"can't create the journal folder {tmp_path / 'file'}"):
        folder_id(tmp_path / "file")


def test_an_unused_folder_is_removed(tmp_path: Path) -> None:
    folder_id(tmp_path / "journal")
    remove_unused_folder(tmp_path / "journal")
    assert not (tmp_path / "journal").exists()
    remove_unused_folder(tmp_path / "journal")
