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
    captions = [entry.captions[0] for entry in found.entries]
    assert [caption.marks for caption in captions] == [
        ("repeated",),
        ("looping", "unfinished"),
        ("failed",),
        ("short",),
        ("repeated",),
        (),
        (),
    ]
    assert [caption.words for caption in captions] == [6, 14, 0, 2, 6, 9, 8]
    assert captions[0].times == 2 and captions[3].times == 1
    assert (captions[2].stage, captions[2].message) == ("decode", "decord: <no>; PyAV: no")
    assert (found.rows, found.captioned, found.chosen) == (7, (6,), 7)
    assert (found.captions, found.columns) == (("text",), ("duration",))
    assert [entry.cells for entry in found.entries] == [(duration,) for *_, duration in ROWS]
    assert "1 rows of" in caplog.text and "are ignored: the table has no such row" in caplog.text


def test_only_and_sample(table: Path) -> None:
    only = _read(table, only=["failed", "short"])
    assert [entry.row for entry in only.entries] == [2, 3] and only.chosen == 2
    assert _read(table, only=["failed"], short_words=1).chosen == 1
    nothing = _read(table, only=["short"], short_words=1)
    assert (nothing.entries, nothing.captioned) == ((), (6,))
    one, same, other = (_read(table, sample=3, seed=seed) for seed in (1, 1, 3))
    rows = [entry.row for entry in one.entries]
    assert len(rows) == 3 and rows == sorted(rows) and one == same and one.chosen == 7
    assert rows != [entry.row for entry in other.entries]
    repeated = _read(table, sample=1, only=["repeated"])  # counted in the whole table, not in the sample
    assert repeated.entries[0].captions[0].times == 2


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


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A table with two columns of captions, as a run writes it, and a column `text` that the run did not write."""
    path = tmp_path / "meta_caption.csv"
    rows = [
        ("a.mp4", "old", "A dog.", "A dog runs over a meadow."),
        ("b.mp4", "old", "A dog.", ""),
        ("c.mp4", "old", "", ""),
        ("d.jpg", "old", "It is a red barn.", "It is a red barn in a field, and it"),
    ]
    pd.DataFrame(rows, columns=["path", "text", "text_short", "text_long"]).to_csv(path, index=False)
    records = []
    for row, (clip, _, *captions) in enumerate(rows):
        for column, caption in zip(("text_short", "text_long"), captions, strict=True):
            outcome: dict[str, object] = {"outcome": "failed", "stage": "prompt", "message": "too long"}
            if caption:
                cut_off = (row, column) == (3, "text_short")
                outcome = {"outcome": "captioned", "tokens": 9, "truncated": cut_off, "looping": False}
            records.append({"row": row, "path": clip, "column": column, **outcome})
    outcomes_path(path).write_text("".join(json.dumps(record) + "\n" for record in records))
    failures = [[1, "b.mp4", "text_long", "prompt", "too long"]]
    failures += [[2, "c.mp4", column, "decode", "no picture"] for column in ("text_short", "text_long")]
    with failures_path(path).open("w", newline="") as file:
        csv.writer(file).writerows([["row", "path", "column", "stage", "message"], *failures])
    return path


def test_several_captions_for_one_clip(several: Path) -> None:
    """Each has its own marks, counts and failures; the columns are those that the run wrote."""
    found = _read(several)
    assert (found.captions, found.columns) == (("text_short", "text_long"), ("text",))
    assert (found.rows, found.captioned) == (4, (3, 2))
    assert [[caption.marks for caption in entry.captions] for entry in found.entries] == [
        [("repeated", "short"), ()],
        [("repeated", "short"), ("failed",)],
        [("failed",), ("failed",)],
        [("unfinished",), ()],  # according to the outcomes of each column, not to the last characters
    ]
    stages = [[(caption.stage, caption.message) for caption in entry.captions] for entry in found.entries]
    assert stages[1] == [("", ""), ("prompt", "too long")] and stages[2] == [("decode", "no picture")] * 2
    assert [entry.cells for entry in found.entries] == [("old",)] * 4
    assert [entry.row for entry in _read(several, only=["failed"]).entries] == [1, 2]
    assert [entry.row for entry in _read(several, only=["short", "unfinished"]).entries] == [0, 1, 3]


def test_columns_can_be_chosen(several: Path) -> None:
    chosen = _read(several, captions=["text_long", "text"])
    assert (chosen.captions, chosen.columns) == (("text_long", "text"), ("text_short",))
    assert [caption.text for caption in chosen.entries[1].captions] == ["", "old"]
    assert chosen.entries[1].captions[0].stage == "prompt"
    with pytest.raises(UsageError, match=r"--column text_lang: .*no such column; its columns: 'path', 'text', "):
        _read(several, captions=["text_long", "text_lang"])
    outcomes_path(several).unlink()  # then nothing says which columns the run wrote
    assert _read(several).captions == ("text",)


def test_long_texts_are_shortened(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    pd.DataFrame([["p" * 2000, "word " * 2000, "x" * 10**6]], columns=["path", "text", "blob"]).to_csv(table)
    entry = _read(table).entries[0]
    assert len(entry.captions[0].text) < 4100 and entry.captions[0].text.endswith("… (9,999 characters)")
    assert len(entry.cells[1]) < 1100 and len(entry.path) == 2000


def test_usage_errors(tmp_path: Path) -> None:
    table = tmp_path / "meta.csv"
    table.write_text("path\na.mp4\n")
    with pytest.raises(UsageError, match="no 'text' column; give the table that the captioning command wrote"):
        _read(table)
    with pytest.raises(UsageError, match="with --column; its columns: 'path'"):
        _read(table)
    table.write_text("path,text\na.mp4,A dog.\n")
    (tmp_path / "meta_failures.csv").write_text("row,why\n0,no\n")
    with pytest.raises(UsageError, match="has no column message, path, stage"):
        _read(table)
    with pytest.raises(UsageError, match="does not exist"):
        _read(tmp_path / "nothing.csv")
