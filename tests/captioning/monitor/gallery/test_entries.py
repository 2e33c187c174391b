"""What the gallery shows about each row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.captioning.meta.names import failures_path, outcomes_path
from pipeline.captioning.monitor.gallery.entries import Entries, read_entries
from pipeline.captioning.process.errors import UsageError

ROWS = [
    ("a.mp4", "A dog runs over a meadow.", "1.5"),
    ("b.mp4", "The man and the man and the man and the man and the man", "2"),
    ("c.mp4", "", "3"),
    ("d.mp4", "A cat.", ""),
    ("e.mp4", "A dog runs over a meadow.", "5"),
    ("f.mp4", "一个男人在街上走路。", "6"),
    ("g.mp4", 'He says: "We are going to the sea."', "7"),
]


def _read(table: Path, **changes: object) -> Entries:
    return read_entries(table, **({"only": [], "sample": 100, "seed": 0, "short_words": 5} | changes))  # type: ignore[arg-type]


@pytest.fixture(params=["csv", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    frame = pd.DataFrame(ROWS, columns=["path", "text", "duration"])
    path = tmp_path / f"meta_caption.{request.param}"
    if request.param == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    failures = [["row", "path", "stage", "message"], ["2", "c.mp4", "decode", "decord: <no>; PyAV: no"]]
    with failures_path(path).open("w", newline="") as file:
        csv.writer(file).writerows([*failures, ["3", "x.mp4", "decode", "of another table"]])
    return path


def test_marks_failures_and_columns(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = _read(table)
    assert [entry.marks for entry in found.entries] == [
        ("repeated",),
        ("looping", "unfinished"),
        ("failed",),
        ("short",),
        ("repeated",),
        (),
        (),
    ]
    assert [entry.words for entry in found.entries] == [6, 14, 0, 2, 6, 9, 8]
    assert found.entries[0].times == 2 and found.entries[3].times == 1
    assert (found.entries[2].stage, found.entries[2].message) == ("decode", "decord: <no>; PyAV: no")
    assert (found.captioned, found.failed, found.chosen) == (6, 1, 7)
    assert found.columns == ("duration",)
    assert [entry.cells for entry in found.entries] == [(duration,) for *_, duration in ROWS]
    assert "1 rows of" in caplog.text and "are ignored: the table has no such row" in caplog.text


def test_only_and_sample(table: Path) -> None:
    only = _read(table, only=["failed", "short"])
    assert [entry.row for entry in only.entries] == [2, 3] and only.chosen == 2
    assert _read(table, only=["failed"], short_words=1).chosen == 1
    nothing = _read(table, only=["short"], short_words=1)
    assert (nothing.entries, nothing.captioned) == ((), 6)
    one, same, other = (_read(table, sample=3, seed=seed) for seed in (1, 1, 3))
    rows = [entry.row for entry in one.entries]
    assert len(rows) == 3 and rows == sorted(rows) and one == same and one.chosen == 7
    assert rows != [entry.row for entry in other.entries]
    repeated = _read(table, sample=1, only=["repeated"])  # counted in the whole table, not in the sample
    assert repeated.entries[0].times == 2


def test_unfinished_means_cut_off(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    """According to the outcomes. The last character decides only for rows without an outcome."""
    captioned = {"outcome": "captioned", "looping": False, "partial": False, "tokens": 9}
    records = [
        {"row": 0, "path": "a.mp4", **captioned, "truncated": True},  # although it ends with a full stop
        {"row": 1, "path": "b.mp4", **captioned, "truncated": False},  # although it does not end with one
        {"row": 2, "path": "c.mp4", "outcome": "failed", "stage": "decode", "message": "no"},
        {"row": 3, "path": "another.mp4", **captioned, "truncated": True},  # the table was sorted after the run
        {"row": 4, "path": "e.mp4", "outcome": "kept"},
        {"row": 7, "path": "h.mp4", **captioned, "truncated": True},
    ]
    outcomes_path(table).write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [entry.row for entry in _read(table, only=["unfinished"]).entries] == [0]
    with outcomes_path(table).open("a") as file:
        file.write("{")
    assert [entry.row for entry in _read(table, only=["unfinished"]).entries] == [1]
    assert f"{outcomes_path(table)} can't be read" in caplog.text


def test_long_texts_are_shortened(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    pd.DataFrame([["p" * 2000, "word " * 2000, "x" * 10**6]], columns=["path", "text", "blob"]).to_csv(table)
    entry = _read(table).entries[0]
    assert len(entry.caption) < 4100 and entry.caption.endswith("… (9,999 characters)")
    assert len(entry.cells[1]) < 1100 and len(entry.path) == 2000


def test_usage_errors(tmp_path: Path) -> None:
    table = tmp_path / "meta.csv"
    table.write_text("path\na.mp4\n")
    with pytest.raises(UsageError, match="no 'text' column; give the table that the captioning command wrote"):
        _read(table)
    table.write_text("path,text\na.mp4,A dog.\n")
    (tmp_path / "meta_failures.csv").write_text("row,why\n0,no\n")
    with pytest.raises(UsageError, match="has no column message, path, stage"):
        _read(table)
    with pytest.raises(UsageError, match="does not exist"):
        _read(tmp_path / "nothing.csv")
