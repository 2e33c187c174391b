"""Reading and writing tables: merging, shards, unchanged cells, and usage errors in one line."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.captioning.meta.table import MetaTable
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
    assert "merged: 3 rows" in capsys.readouterr().out


def test_csv_and_parquet_are_merged(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", ["path", "num_frames"], [["1.mp4", "007"]])
    second = write(tmp_path / "b.parquet", ["path", "num_frames"], [["2.mp4", "8"]])
    assert datautil.main([str(first), str(second), "--output", str(tmp_path / "out.csv")]) == 0
    assert [row["num_frames"] for row in read(tmp_path / "out.csv")] == ["007", "8.0"]


def test_parquet_output_has_number_columns_where_nothing_is_lost(tmp_path: Path) -> None:
    header = ["path", "id", "num_frames", "aes"]
    source = write(tmp_path / "a.csv", header, [["1.mp4", "007", "16", "5.5"], ["2.mp4", "8", "", "6"]])
    output = tmp_path / "out.parquet"
    assert datautil.main([str(source), "--output", str(output)]) == 0
    frame = pd.read_parquet(output)
    assert frame["id"].tolist() == ["007", "8"]
    assert (frame["num_frames"].sum(), frame["num_frames"].isna().sum(), frame["aes"].sum()) == (16, 1, 11.5)


def test_no_digit_is_lost_in_parquet_output(tmp_path: Path) -> None:
    header = ["path", "long", "longer", "huge", "precise", "score"]
    row = ["1.mp4", "1234567890123456789", "123456789012345678901", "1e400", "0.1234567890123456789", "0.1"]
    source = write(tmp_path / "a.csv", header, [row, ["2.mp4", "", "2", "1.5", "0.5", "1e-3"]])
    assert datautil.main([str(source), "--output", str(tmp_path / "out.parquet")]) == 0
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert frame.iloc[0].astype(str).tolist() == row
    assert frame["score"].tolist() == [0.1, 0.001]


def test_strings_of_parquet_stay_strings(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["1.mp4"], "id": ["8"], "frames": [16]}), tmp_path / "a.parquet")
    second = write(tmp_path / "b.csv", ["path", "id", "frames"], [["2.mp4", "9", "17"]])
    arguments = [str(tmp_path / "a.parquet"), str(second), "--output", str(tmp_path / "out.parquet")]
    assert datautil.main(arguments) == 0
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert (frame["id"].tolist(), frame["frames"].tolist()) == (["8", "9"], [16, 17])


def test_csv_cells_stay_unchanged(tmp_path: Path) -> None:
    rows = [["a,b.mp4", 'say "x"\nnext\rend', "007", "1e3", "NaN", "None", " ", "", "0", "", "", "1.50"]]
    run(tmp_path, "csv", rows=rows)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [HEADER, *rows]


def test_shards_contain_every_row_once(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", HEADER, TABLE)
    assert datautil.main([str(source), "--shard", "3", "--output", str(tmp_path / "out.csv")]) == 0
    parts = [read(tmp_path / f"out_{number}.csv") for number in range(3)]
    assert [len(part) for part in parts] == [1, 2, 2]
    assert [row["path"] for part in parts for row in part] == [row[0] for row in TABLE]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.csv"], "--output is required"),
        (["in.csv", "--output", "in.csv"], "is an input"),
        (["in.csv", "--difference", "other.csv", "--output", "other.csv"], "is an input"),
        (["in.csv", "--output", "nowhere/out.csv"], "the folder of --output, nowhere, does not exist"),
        (["in.csv", "--output", "out"], "or give --format"),
        (["in.csv", "--output", "out.json"], "'.json' is none of .csv, .csv.gz, .parquet, .pq"),
        (["in.csv", "--output", "out.csv.gz", "--format", "csv"], "contradict"),
        (["in.csv.bak", "--output", "in.csv"], "its backup would replace in.csv.bak, which is an input"),
        (["semicolons.csv", "--output", "out.csv"], "separated by semicolons"),
        (["nul.csv", "--output", "out.csv"], "row 0 (line 2), column 'a' holds a NUL byte"),
        (["in.csv", "--output", "out.csv", "--format", "parquet"], "contradict"),
        (["none*.csv", "--output", "out.csv"], "no file matches 'none*.csv'"),
        (["ragged.csv", "--output", "out.csv"], "line 3"),
        (["twice.csv", "--output", "out.csv"], "several columns named 'path'"),
        (["text.parquet", "--output", "out.csv"], "can't be read as Parquet"),
        (["in.csv", "--difference", "none.csv", "--output", "out.csv"], "none.csv"),
        (["in.csv", "--sort", "beauty", "--output", "out.csv"], "can't sort by 'beauty'"),
        (["in.csv", "--count-num-token", "none", "--output", "out.csv"], "there is no none"),
        (["in.csv", "--shard", "0", "--output", "out.csv"], "less than 1"),
    ],
)
def test_usage_error_is_one_line(
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
    (tmp_path / "in.csv.bak").write_text("path\na\n")
    (tmp_path / "semicolons.csv").write_text("path;a\n1;2\n")
    (tmp_path / "nul.csv").write_text("path,a\n1,\0\n")
    (tmp_path / "text.parquet").write_text("no parquet")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert datautil.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwrite_keeps_the_old_file_as_backup(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", HEADER, TABLE)
    before = source.read_bytes()
    assert datautil.main([str(source), "--head", "1", "--output", str(source), "--overwrite"]) == 0
    assert len(read(source)) == 1
    assert (tmp_path / "in.csv.bak").read_bytes() == before


def test_compressed_tables(tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", HEADER, TABLE)
    plain = source.read_bytes()
    packed = tmp_path / "packed.csv.gz"
    assert datautil.main([str(source), "--output", str(packed)]) == 0
    unpacked = tmp_path / "unpacked.csv"
    assert datautil.main([str(packed), "--output", str(unpacked)]) == 0
    assert gzip.decompress(packed.read_bytes()) == unpacked.read_bytes()
    assert read(unpacked) == read(source)
    assert datautil.main([str(packed), "--output", str(tmp_path / "parts"), "--format", "csv.gz", "--shard", "2"]) == 0
    parts = [tmp_path / f"parts_{shard}.csv.gz" for shard in range(2)]
    assert (
        datautil.main([*map(str, parts), "--difference", str(packed), "--output", str(tmp_path / "remaining.csv")]) == 0
    )
    assert [row["text"] for row in read(tmp_path / "remaining.csv")] == [""]
    assert source.read_bytes() == plain


def test_output_has_byte_order_mark_and_line_ends_of_the_first_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfpath,n\r\na,"1\n2"\r\n')
    (tmp_path / "b.csv").write_bytes(b"path,n\nb,3\n")
    output = tmp_path / "out.csv"
    assert datautil.main([str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--output", str(output)]) == 0
    assert output.read_bytes() == b'\xef\xbb\xbfpath,n\r\na,"1\n2"\r\nb,3\r\n'


def test_parquet_cells_become_the_same_text_as_in_captioning(tmp_path: Path) -> None:
    columns = {
        "path": ["a\0", None],
        "list": [[1, 2], None],
        "truth": [True, None],
        "float": [8.0, 0.1],
        "bytes": [b"\xff", None],
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    assert datautil.main([str(tmp_path / "in.parquet"), "--output", str(tmp_path / "out.csv")]) == 0
    MetaTable.read(tmp_path / "in.parquet").write(tmp_path / "other.csv", {"text": ["", ""]})
    with (tmp_path / "other.csv").open(newline="") as file:
        others = [row[:-1] for row in csv.reader(file)]
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == others
    assert others[1:] == [["a\ufffd", "[1, 2]", "True", "8.0", "ff"], ["", "", "", "0.1", ""]]
