"""Meta tables are written unchanged, except for the columns that receive captions."""

from __future__ import annotations

import csv
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.captioning.meta.files import atomic_write, backup_of
from pipeline.captioning.meta.ranges import matching_rows
from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.process.errors import RunError, UsageError

SPECIAL_CELLS = [
    ["id", "path", "note", "id", "score"],
    ["007", "a b.mp4", 'says "hi", twice', "NA", "1.0"],
    ["", "ü/日本.mp4", "two\nlines", "null", "1e5"],
    ["3", "c,d.mp4", " spaces ", "", "-0"],
]


def _write_csv(path: Path, rows: list[list[str]], **options: str) -> Path:
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        csv.writer(file, **options).writerows(rows)
    return path


def _read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_csv_cells_are_unchanged(tmp_path: Path) -> None:
    table = MetaTable.read(_write_csv(tmp_path / "m.csv", SPECIAL_CELLS))
    assert table.paths == ["a b.mp4", "ü/日本.mp4", "c,d.mp4"]
    assert table.texts() is None
    table.write(tmp_path / "out.csv", {"text": ['one "caption", quoted', "", "ünï"]})
    captions = ["text", 'one "caption", quoted', "", "ünï"]
    expected = [[*row, caption] for row, caption in zip(SPECIAL_CELLS, captions, strict=True)]
    assert _read_csv(tmp_path / "out.csv") == expected


def test_the_text_column_keeps_its_position(tmp_path: Path) -> None:
    table = MetaTable.read(_write_csv(tmp_path / "m.csv", [["text", "path"], ["old", "a"], ["", "b"]]))
    assert table.texts() == ["old", ""]
    table.write(tmp_path / "out.csv", {"text": ["", "new"]})
    assert _read_csv(tmp_path / "out.csv") == [["text", "path"], ["", "a"], ["new", "b"]]


SEVERAL = [["b", "path", "text", "n"], ["old", "x", "mine", "1"], ["", "y", "", "2"]]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_several_columns_are_replaced_in_their_place_or_appended(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"m{suffix}"
    if suffix == ".csv":
        _write_csv(source, SEVERAL)
    else:
        pq.write_table(pa.table({name: [SEVERAL[1][i], SEVERAL[2][i]] for i, name in enumerate(SEVERAL[0])}), source)
    table = MetaTable.read(source, ["c", "b", "a"], {"n": "x"})
    assert (table.texts("b"), table.texts("c"), table.texts()) == (["old", ""], None, ["mine", ""])
    assert table.cells(["n", "path"]) == [["1", "2"], ["x", "y"]]
    table.write(tmp_path / "out.csv", {"c": ["c0", "c1"], "b": ["b0", "b1"], "a": ["", "a1"]})
    assert _read_csv(tmp_path / "out.csv") == [
        ["b", "path", "text", "n", "c", "a"],
        ["b0", "x", "mine", "1", "c0", ""],
        ["b1", "y", "", "2", "c1", "a1"],
    ]
    written = MetaTable.read(tmp_path / "out.csv")
    assert table.is_same_but_for(["a", "b", "c"], written) and not table.is_same_but_for(["a", "c"], written)


@pytest.mark.parametrize("read", [MetaTable.read, lambda path, *columns: MetaTable.check(path, None, *columns)])
def test_columns_of_captions_and_questions_are_checked(tmp_path: Path, read: Callable[..., Any]) -> None:
    path = _write_csv(tmp_path / "m.csv", [["path", "text", "text", "n", "n", "a"], ["x", "1", "2", "3", "4", "5"]])
    read(path, ["a", "new"], {"a": "--question inserts it"})
    for captions, cells, message in (
        (["text"], {}, "2 columns named 'text'; keep one"),
        (["a"], {"n": "x"}, "2 columns named 'n'; keep one"),
        (["a"], {"a": "x", "q": "y", "no": "z"}, r"has no column 'q' \(y\), 'no' \(z\); its columns: 'path', "),
    ):
        with pytest.raises(UsageError, match=message):
            read(path, captions, cells)


def test_a_lone_carriage_return_does_not_split_a_row(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b'path,n\na.mp4,"x\ry"\nb.mp4,z\n')
    MetaTable.read(tmp_path / "m.csv").write(tmp_path / "out.csv", {"text": ["c", ""]})
    assert _read_csv(tmp_path / "out.csv") == [["path", "n", "text"], ["a.mp4", "x\ry", "c"], ["b.mp4", "z", ""]]


def test_tables_are_compared_without_text(tmp_path: Path) -> None:
    tables = [
        MetaTable.read(_write_csv(tmp_path / f"{i}.csv", rows))
        for i, rows in enumerate(
            [
                [["path", "n"], ["a", "1"]],
                [["path", "text", "n"], ["a", "c", "1"]],
                [["path", "n"], ["a", "2"]],
                [["path", "n"], ["a", "1"], ["b", "1"]],
                [["path", "m"], ["a", "1"]],
            ]
        )
    ]
    assert [tables[0].is_same_but_for(["text"], table) for table in tables] == [True, True, False, False, False]


def test_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    table = pa.table({"path": ["a", None], "n": pa.array([1, None], pa.int8()), "x": [[1.5], []]})
    pq.write_table(table, tmp_path / "m.parquet")
    meta = MetaTable.read(tmp_path / "m.parquet")
    assert meta.paths == ["a", ""]
    meta.write(tmp_path / "out.parquet", {"text": ["seen", ""]})
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.drop_columns("text").equals(table)
    assert written["text"].to_pylist() == ["seen", ""]


def test_earlier_output_is_kept_as_backup(tmp_path: Path) -> None:
    table = MetaTable.read(_write_csv(tmp_path / "m.csv", [["path"], ["a"]]))
    output = tmp_path / "out.csv"
    table.write(output, {"text": ["first"]})
    table.write(output, {"text": ["second"]})
    assert "second" in output.read_text()
    assert "first" in backup_of(output).read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"m.csv", "out.csv", "out.csv.bak"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"name,text\na,b\n", "no 'path' column"),
        (b"path,path\na,b\n", "2 columns named 'path'"),
        (b"path\n\xff\xfe\n", "can't be read as CSV"),
        (b'path\n"open quote\n', "can't be read as CSV"),
        (b"path\na\nb,c,d\n", "can't be read as CSV"),
    ],
)
def test_an_unusable_csv_table_is_a_usage_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "m.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        MetaTable.read(path)


def test_an_unusable_parquet_table_or_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match="Parquet"):
        MetaTable.read(tmp_path / "m.parquet")
    with pytest.raises(UsageError, match="not a file"):
        MetaTable.read(tmp_path)


def test_captions_are_matched_with_inserted_and_repeated_paths() -> None:
    earlier = ["a", "b", "a"]
    assert matching_rows(["new", "a", "a", "a", "b"], earlier) == [-1, 0, 2, -1, 1]


def test_a_failed_write_leaves_the_earlier_file_unchanged(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    output.write_text("earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(RunError, match=r"can't write .*out.csv.*File too large"), atomic_write(output) as temporary:
            temporary.write_text("x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"] and output.read_text() == "earlier"
    with pytest.raises(RunError, match=r"can't write .*gone"), atomic_write(tmp_path / "gone" / "out.csv"):
        pass


def test_a_path_without_a_readable_file_is_a_usage_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for name, message in (
        ("fifo.csv", "fifo.csv is not a file"),
        ("loop.csv", "loop.csv does not exist"),
        ("x" * 300 + ".csv", "can't be read: File name too long"),
    ):
        for read in (MetaTable.read, MetaTable.check):
            with pytest.raises(UsageError, match=message):
                read(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_table_without_permission_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path\na\n")
    (tmp_path / "m.csv").chmod(0)
    with pytest.raises(UsageError, match="Permission denied"):
        MetaTable.check(tmp_path / "m.csv")
