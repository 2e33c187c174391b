"""Files that are no answer stores are refused, in one line, and are not changed."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.captioning.captioners.api import store_file
from pipeline.captioning.captioners.api.store import AnswerStore
from pipeline.captioning.process.errors import UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta_answers.sqlite"


class TestUnusableFiles:
    def _refused(self, path: Path, *words: str) -> None:
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(UsageError) as caught:
            AnswerStore(path, path.parent / "out.csv")
        for word in (str(path), "--answers", *words):
            assert word in str(caught.value)
        assert "\n" not in str(caught.value)
        assert (path.read_bytes() if path.is_file() else b"") == before, "the file is not changed"

    def test_a_text_file(self, path: Path) -> None:
        path.write_text("path,text\n" * 1000)
        self._refused(path, "not an answer store")

    def test_a_short_text_file(self, path: Path) -> None:
        path.write_text("path\n")
        self._refused(path, "not an answer store")

    def test_another_sqlite_file(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE bookmarks (url TEXT)")
            connection.commit()
        self._refused(path, "another program")

    @pytest.mark.parametrize("version", [0, 2])
    def test_another_format(self, path: Path, version: int) -> None:
        AnswerStore(path, path.parent / "out.csv").close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA user_version={version}")
        self._refused(path, f"format {version}")

    def test_a_damaged_file(self, path: Path) -> None:
        AnswerStore(path, path.parent / "out.csv").close()
        content = bytearray(path.read_bytes())
        content[100:4096] = b"\xff" * 3996
        path.write_bytes(content)
        self._refused(path, "malformed")

    def test_a_folder(self, tmp_path: Path) -> None:
        self._refused(tmp_path, "folder")

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        self._refused(tmp_path / "missing" / "a.sqlite", "missing", "does not exist")

    def test_a_device(self) -> None:
        self._refused(Path("/dev/null"), "regular")

    def test_a_file_that_may_not_be_written(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        AnswerStore(path, path.parent / "out.csv").close()
        if os.geteuid() == 0:  # root may write to every file
            monkeypatch.setattr(os, "access", lambda *_: False)
        else:
            path.chmod(0o444)
        self._refused(path, "may not be")

    def test_a_file_that_is_locked(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_file, "LOCK_SECONDS", 0.05)
        AnswerStore(path, path.parent / "out.csv").close()
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(UsageError, match="locked"):
                AnswerStore(path, path.parent / "out.csv")

    def test_an_empty_file_becomes_a_store(self, path: Path) -> None:
        path.touch()
        AnswerStore(path, path.parent / "out.csv").close()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM answers").fetchall() == [(0,)]


def test_the_file_system_of_a_path() -> None:
    mounts = [
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
        "35 22 0:31 / /data\\040sets rw - nfs4 server:/x rw",
        "36 22 0:32 / /data rw shared:1 - lustre server:/x rw",
        "37 36 0:33 / /data/fast rw - xfs /dev/vdb rw",
    ]
    paths = ("/a.sqlite", "/data sets/a.sqlite", "/data/a.sqlite", "/data/fast/a", "/data/faster/a")
    assert [store_file._file_system(path, mounts) for path in paths] == ["ext4", "nfs4", "lustre", "xfs", "lustre"]
