"""Tables that are read in one format and written in the other."""

from __future__ import annotations

import csv
import datetime
import decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.process.errors import UsageError

COLUMNS = {
    "path": (pa.array(["a.mp4", None, "c\0.mp4"]), ["a.mp4", "", "c\ufffd.mp4"]),
    "whole": (pa.array([1, None, -3], pa.int8()), ["1", "", "-3"]),
    "float": (pa.array([8.0, 0.1, None]), ["8.0", "0.1", ""]),
    "single": (pa.array([0.1, -2, 1e20], pa.float32()), ["0.1", "-2.0", "1e+20"]),
    "truth": (pa.array([True, None, False]), ["True", "", "False"]),
    "time": (
        pa.array([datetime.datetime(2024, 5, 6, 7), None, None], pa.timestamp("ms")),
        ["2024-05-06 07:00:00.000", "", ""],
    ),
    "zone": (
        pa.array([datetime.datetime(2024, 5, 6, 7), None, None], pa.timestamp("us", "+02:00")),
        ["2024-05-06 09:00:00+02:00", "", ""],
    ),
    "own": (pa.array([b"0123456789abcdef", None, None], pa.uuid()), ["30313233-3435-3637-3839-616263646566", "", ""]),
    "day": (pa.array([datetime.date(2024, 5, 6), None, None]), ["2024-05-06", "", ""]),
    "price": (pa.array([decimal.Decimal("1.50"), None, None]), ["1.50", "", ""]),
    "list": (pa.array([[1, 2], [], None]), ["[1, 2]", "[]", ""]),
    "floats": (pa.array([[0.5, float("nan")], None, None]), ["[0.5, null]", "", ""]),
    "map": (pa.array([[("a", 1)], None, None], pa.map_(pa.string(), pa.int8())), ['[["a", 1]]', "", ""]),
    "struct": (pa.array([{"ü": b"\xff"}, None, None]), ['{"ü": "ff"}', "", ""]),
    "bytes": (pa.array([b"\x00\xff", b"", None]), ["00ff", "", ""]),
    "kind": (pa.array(["x", None, "x"]).dictionary_encode(), ["x", "", "x"]),
    "large": (pa.array(["x,\n", None, "\r"], pa.large_string()), ["x,\n", "", "\r"]),
    "nothing": (pa.nulls(3), ["", "", ""]),
}  # fmt: skip


def test_parquet_is_written_as_csv_in_the_documented_text_form(tmp_path: Path) -> None:
    pq.write_table(pa.table({name: column for name, (column, _) in COLUMNS.items()}), tmp_path / "m.parquet")
    table = MetaTable.read(tmp_path / "m.parquet")
    table.write(tmp_path / "out.csv", {"text": ["seen", "", ""]})
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    found = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    assert table.paths == ["a.mp4", "", "c\ufffd.mp4"], (
        "the failures file is CSV, so paths must already be in their text form"
    )
    assert found == {name: texts for name, (_, texts) in COLUMNS.items()} | {"text": ["seen", "", ""]}
    earlier = MetaTable.read(tmp_path / "out.csv")
    assert table.is_same_but_for(["text"], earlier) and earlier.is_same_but_for(["text"], table)


def test_csv_is_written_as_parquet_strings(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,id,n\na.mp4,007,\nb.mp4,8,1.50\n")
    table = MetaTable.read(tmp_path / "m.csv")
    table.write(tmp_path / "out.parquet", {"text": ["", "seen"]})
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.types == [pa.string()] * 4
    assert written.to_pydict() == {
        "path": ["a.mp4", "b.mp4"], "id": ["007", "8"], "n": ["", "1.50"], "text": ["", "seen"],
    }  # fmt: skip
    earlier = MetaTable.read(tmp_path / "out.parquet")
    assert table.is_same_but_for(["text"], earlier) and earlier.is_same_but_for(["text"], table)
    (tmp_path / "other.csv").write_text("path,id,n\na.mp4,007,\nb.mp4,8,1.5\n")
    assert not MetaTable.read(tmp_path / "other.csv").is_same_but_for(["text"], earlier)


def test_equal_column_names_are_refused_for_a_parquet_output(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,id,id\na.mp4,1,2\n")
    MetaTable.check(tmp_path / "m.csv", tmp_path / "out.csv")
    with pytest.raises(UsageError, match=r"Parquet can't have 2 columns named 'id'"):
        MetaTable.check(tmp_path / "m.csv", tmp_path / "out.parquet")


def test_folders_named_like_partitions_add_no_columns(tmp_path: Path) -> None:
    folder = tmp_path / "day=1"
    folder.mkdir()
    pq.write_table(pa.table({"path": ["a.mp4"]}), folder / "m.parquet")
    assert MetaTable.read(folder / "m.parquet").other_columns() == []
