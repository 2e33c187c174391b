"""Tables in and out: merged, sharded, cell by cell as they were; wrong use is told in one line."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from pipeline.datasets import datautil
from tests.datasets.meta_tables import HEADER, KINDS, TABLE, read, run, write


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_merged_by_pattern(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for part in range(3):
        write(tmp_path / f"part{part}.{kind}", ["path", *(["b"] if part else ["a"])], [[f"{part}.mp4", f"{part},\n"]])
    output = tmp_path / f"merged.{kind}"
    assert datautil.main([str(tmp_path / f"part*.{kind}"), "--output", str(output)]) == 0
    assert [tuple(row.values()) for row in read(output)] == [
        ("0.mp4", "0,\n", ""), ("1.mp4", "", "1,\n"), ("2.mp4", "", "2,\n")
    ]  # fmt: skip
    assert "together: 3 rows" in capsys.readouterr().out


def test_csv_and_parquet_are_merged(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", ["path", "num_frames"], [["1.mp4", "007"]])
    second = write(tmp_path / "b.parquet", ["path", "num_frames"], [["2.mp4", "8"]])
    assert datautil.main([str(first), str(second), "--output", str(tmp_path / "out.csv")]) == 0
    assert [row["num_frames"] for row in read(tmp_path / "out.csv")] == ["007", "8.0"]


def test_numbers_go_into_parquet_as_numbers_if_that_loses_nothing(tmp_path: Path) -> None:
    header = ["path", "id", "num_frames", "aes"]
    source = write(tmp_path / "a.csv", header, [["1.mp4", "007", "16", "5.5"], ["2.mp4", "8", "", "6"]])
    output = tmp_path / "out.parquet"
    assert datautil.main([str(source), "--output", str(output)]) == 0
    frame = pd.read_parquet(output)
    assert frame["id"].tolist() == ["007", "8"]
    assert (frame["num_frames"].sum(), frame["num_frames"].isna().sum(), frame["aes"].sum()) == (16, 1, 11.5)


def test_cells_come_through_as_they_are(tmp_path: Path) -> None:
    rows = [["a,b.mp4", 'say "x"\nnext\rend', "007", "1e3", "NaN", "None", " ", "", "0", "", "", "1.50"]]
    run(tmp_path, "csv", rows=rows)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [HEADER, *rows]


def test_shards_hold_every_row_once(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", HEADER, TABLE)
    assert datautil.main([str(source), "--shard", "3", "--output", str(tmp_path / "out.csv")]) == 0
    parts = [read(tmp_path / f"out_{number}.csv") for number in range(3)]
    assert [len(part) for part in parts] == [1, 2, 2]
    assert [row["path"] for part in parts for row in part] == [row[0] for row in TABLE]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.csv"], "--output says where"),
        (["in.csv", "--output", "in.csv"], "is an input"),
        (["in.csv", "--difference", "other.csv", "--output", "other.csv"], "is an input"),
        (["in.csv", "--output", "nowhere/out.csv"], "no folder nowhere"),
        (["in.csv", "--output", "out"], "the suffix tells the kind"),
        (["in.csv", "--output", "out.csv", "--format", "parquet"], "contradict"),
        (["none*.csv", "--output", "out.csv"], "no file is named or matches 'none*.csv'"),
        (["ragged.csv", "--output", "out.csv"], "line 3"),
        (["twice.csv", "--output", "out.csv"], "several columns named 'path'"),
        (["text.parquet", "--output", "out.csv"], "can't be read as Parquet"),
        (["in.csv", "--difference", "none.csv", "--output", "out.csv"], "none.csv"),
        (["in.csv", "--sort", "beauty", "--output", "out.csv"], "can't sort by 'beauty'"),
        (["in.csv", "--count-num-token", "none", "--output", "out.csv"], "there is no none"),
        (["in.csv", "--shard", "0", "--output", "out.csv"], "less than 1"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in.csv", HEADER, TABLE)
    write(tmp_path / "other.csv", ["path"], [["a"]])
    (tmp_path / "ragged.csv").write_text("path,a\n1,2\n1,2,3\n")
    (tmp_path / "twice.csv").write_text("path,path\n1,2\n")
    (tmp_path / "text.parquet").write_text("no parquet")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert datautil.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwriting_keeps_what_was_there(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", HEADER, TABLE)
    before = source.read_bytes()
    assert datautil.main([str(source), "--head", "1", "--output", str(source), "--overwrite"]) == 0
    assert len(read(source)) == 1
    assert (tmp_path / "in.csv.bak").read_bytes() == before
