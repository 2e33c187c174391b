"""Indexing tables: what is in the database, replacing, removing, kills, and files that are no such database."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.search import command
from pipeline.search.database import open_to_read
from tests.search.tables import index, rows_of, search, write_table

ROWS = [
    ("a.mp4", "A red star moves.", "Red"),
    ("b.mp4", "", "A blue star."),
    ("c.mp4", " ", ""),
    ("d.mp4", "A green circle.", ""),
]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "captions.db"


def _check(database: Path) -> None:
    """The index has exactly what is in the documents."""
    with open_to_read(database) as connection:
        connection.execute("INSERT INTO captions(captions, rank) VALUES ('integrity-check', 1)")
        (tables,) = connection.execute("SELECT coalesce(sum(documents), 0) FROM tables").fetchone()
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (tables,)


def test_all_columns_of_captions_and_rows_without_caption(
    tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "t.csv", ROWS, ("path", "text", "text_short"))
    assert index(database, table) == 0
    out = capsys.readouterr().out
    assert out == f"indexed {table}: 4 captions in 'text', 'text_short'; 1 row without a caption\n"
    assert rows_of(database, "red OR star OR circle") == [
        ("t.csv", 0, "text"), ("t.csv", 0, "text_short"), ("t.csv", 1, "text_short"), ("t.csv", 3, "text"),
    ]  # fmt: skip
    assert index(database, table, "--column", "text_short") == 0
    assert rows_of(database, "red OR star OR circle") == [("t.csv", 0, "text_short"), ("t.csv", 1, "text_short")]
    assert index(database, table, "--column", "txt") == 2
    assert "has no column 'txt'" in capsys.readouterr().err
    _check(database)


def test_segments_outcomes_and_parquet(tmp_path: Path, database: Path) -> None:
    table = tmp_path / "t.parquet"
    frame = pd.DataFrame({"path": ["a.mp4", "b.mp4", "c.mp4"], "start": [0.5, 4.0, None], "end": [4.0, None, None]})
    frame.assign(mine=["one star", "two stars star", "star"]).to_parquet(table, index=False)
    outcomes = [
        {"row": 0, "path": "a.mp4", "start": 0.5, "end": 4.0, "outcome": "captioned", "truncated": True},
        {"row": 1, "path": "other.mp4", "start": 4.0, "end": None, "outcome": "kept"},
        {"row": 2, "path": "c.mp4", "outcome": "kept"},
    ]
    lines = [json.dumps({**record, "column": "mine"}) for record in outcomes]
    (tmp_path / "t.parquet_outcomes.jsonl").write_text("\n".join([*lines, ""]))
    assert index(database, table) == 0
    hits = sorted(search(database, "star").hits, key=lambda hit: hit.row)
    assert [hit.range for hit in hits] == [TimeRange(500, 4000), TimeRange(4000), None]
    assert [(hit.path, hit.column, hit.outcome) for hit in hits] == [
        ("a.mp4", "mine", "truncated"), ("b.mp4", "mine", ""), ("c.mp4", "mine", "kept"),
    ]  # fmt: skip
    frame.assign(start=[0.0, 4.0, None], mine=["star"] * 3).to_parquet(table, index=False)  # divided in another way
    assert index(database, table) == 0
    hits = sorted(search(database, "star").hits, key=lambda hit: hit.row)
    assert [hit.outcome for hit in hits] == ["", "", "kept"]
    assert index(database, table, "--whole_files") == 0
    assert {hit.range for hit in search(database, "star").hits} == {None}


def test_indexing_again_replaces_rows(tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_table(tmp_path / "one.csv", [("a.mp4", "red star"), ("b.mp4", "red dog")])
    two = write_table(tmp_path / "two.csv", [("a.mp4", "red cat")])
    assert index(database, one, two, one) == 0
    write_table(one, [("a.mp4", "green star")])
    (tmp_path / "link.csv").symlink_to(one)
    assert index(database, tmp_path / "link.csv") == 0  # the same table by another name
    assert rows_of(database, "red") == [("two.csv", 0, "text")]
    assert rows_of(database, "star") == [("one.csv", 0, "text")]
    _check(database)
    write_table(two, [("a.mp4", "")])
    assert index(database, two) == 0  # has no captions any more; those of the other table stay
    assert index(database, two) == 0
    assert rows_of(database, "red OR green") == [("one.csv", 0, "text")]
    _check(database)
    capsys.readouterr()
    assert command.main(["tables", "--database", str(database)]) == 0
    lines = capsys.readouterr().out.splitlines()
    contents = [f"{one}: 1 caption in text", f"{two}: 0 captions in text"]
    assert [line.split(", indexed")[0] for line in lines] == contents
    one.unlink()
    assert command.main(["remove", str(one), "--database", str(database)]) == 0
    assert capsys.readouterr().out == f"removed {one}: 1 caption\n"
    assert rows_of(database, "star") == []
    assert command.main(["remove", str(one), "--database", str(database)]) == 2
    _check(database)


def test_a_fault_in_a_row_keeps_the_earlier_rows(
    tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "t.csv", [("a.mp4", "0", "1", "red star")], ("path", "start", "end", "text"))
    assert index(database, table) == 0
    rows = [("a.mp4", "0", "1", "green"), ("b.mp4", "soon", "1", "green")]
    write_table(table, rows, ("path", "start", "end", "text"))
    assert index(database, table) == 2
    assert "'soon'" in capsys.readouterr().err
    assert rows_of(database, "red") == [("t.csv", 0, "text")] and rows_of(database, "green") == []
    _check(database)


def test_a_kill_keeps_the_earlier_rows(tmp_path: Path, database: Path) -> None:
    table = write_table(tmp_path / "t.csv", [("a.mp4", "red star")])
    assert index(database, table) == 0
    write_table(table, [(f"{row}.mp4", f"green {row} " + f"word{row} " * 50) for row in range(1500)])
    code = (
        "import os, signal, pipeline.search.indexing as indexing\n"
        "from pipeline.search import command\n"
        "real = indexing.documents\n"
        "def documents(table):\n"
        "    for document in real(table):\n"
        "        if document.row == 1499: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield document\n"
        "indexing.documents = documents\n"
        "indexing._CHUNK_DOCUMENTS = 100\n"
        "import pipeline.search.database as database\n"
        "database._CACHE_KIB = 100\n"  # so that much of the transaction is in the file
        f"command.main(['index', {str(table)!r}, '--database', {str(database)!r}])\n"
    )
    before = database.stat().st_size
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert database.stat().st_size > 2 * before
    assert rows_of(database, "red") == [("t.csv", 0, "text")] and rows_of(database, "green") == []
    _check(database)
    assert index(database, table) == 0
    assert search(database, "green").total == 1500


def test_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "t.csv", ROWS, ("path", "text", "text_short"))
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE things (x)")
    newer = tmp_path / "newer.db"
    assert index(newer, table) == 0
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    for database, message in (
        (other, "is not a database of captions"),
        (table, "is not a database of captions"),
        (newer, "has version 99"),
        (tmp_path / "no" / "captions.db", "does not exist"),
        (tmp_path, ""),
    ):
        content = database.read_bytes() if database.is_file() else b""
        capsys.readouterr()
        assert index(database, table) == 2
        assert command.main(["query", "star", "--database", str(database)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2 and all(message in line for line in lines), lines
        assert not database.is_file() or database.read_bytes() == content
    assert index(tmp_path / "captions.db", tmp_path / "none.csv") == 2
    assert not (tmp_path / "captions.db").exists()


def test_an_index_command_that_waits_for_another_one_says_so(
    tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "t.csv", [("a.mp4", "red star")])
    assert index(database, table) == 0
    monkeypatch.setattr("pipeline.search.database._BUSY_SECONDS", 0.01)
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert index(database, table) == 1
    assert "is being written by another process" in capsys.readouterr().err
    assert rows_of(database, "red") == [("t.csv", 0, "text")]
    other.close()


def test_odd_characters(tmp_path: Path, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"\xff\x1b.csv")
    table = write_table(tmp_path / name, [("ü.mp4", "Café\x1b[31m, Straße 星 «naïve»\nline")])
    assert index(database, table) == 0  # `capsys` is strict, as the output is on most machines
    assert capsys.readouterr().out.startswith(f"indexed {tmp_path}/\ufffd .csv: 1 caption in")
    for query in ("cafe", "CAFÉ", "straße", "星", "naive AND line"):
        (hit,) = search(database, query).hits
        assert hit.path == "ü.mp4" and hit.table == str(table.resolve())
        assert "\x1b" not in hit.snippet.text and "\n" not in hit.snippet.text
    assert search(database, "caf").total == 0
    assert command.main(["remove", str(table), "--database", str(database)]) == 0
    assert capsys.readouterr().out == f"removed {tmp_path}/\ufffd .csv: 1 caption\n"
