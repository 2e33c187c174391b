"""The columns `start` and `end`: which rows they make parts of files, and when they are refused."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.asks import Asks
from pipeline.captioning.meta.ranges import matching_rows, range_fields, range_of_cells, range_of_fields, read_ranges
from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.process.errors import UsageError


def _csv(path: Path, *rows: Sequence[object], line_end: str = "\n") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator=line_end).writerows(rows)
    return path


def _ranges(table: MetaTable) -> list[TimeRange | None]:
    return [table.range_of(row) for row in range(len(table.paths))]


def test_ways_of_writing_a_time_are_one_row(tmp_path: Path) -> None:
    pairs = [("10", "20"), ("10.0", "20.000"), ("1e1", "2E1"), (" 10 ", "+20"), ("9.9999", "20.0004")]
    zero = [("0", "5"), ("-0", "5"), ("", "5"), ("nan", "5.0"), ("-0.0001", "5")]
    rows = [("a.mp4", *pair) for pair in (*pairs, *zero)]
    table = MetaTable.read(_csv(tmp_path / "m.csv", ("path", "start", "end"), *rows))
    assert _ranges(table) == [TimeRange(10000, 20000)] * 5 + [TimeRange(0, 5000)] * 5
    assert len(set(table.keys)) == 2
    assert table.cells(["start"])[0][2] == "1e1", "cells stay as they are"


@pytest.mark.parametrize("line_end", ["\n", "\r"])
def test_either_column_may_be_missing_and_cells_may_be_blank(tmp_path: Path, line_end: str) -> None:
    rows = [("end", "note", "path"), ("", "x", "a"), (" ", "x", "a"), ("2.5", "x", "a")]
    path = _csv(tmp_path / "m.csv", *rows, line_end=line_end)
    table = MetaTable.read(path)
    assert _ranges(table) == [None, None, TimeRange(0, 2500)] and list(table.range_columns) == ["end"]
    assert list(table.keys) == ["a", "a", ("a", TimeRange(0, 2500))] and MetaTable.check(path)
    path = _csv(tmp_path / "m.csv", ("start", "path"), (3, "a"), ("", "b"), line_end=line_end)
    assert _ranges(MetaTable.read(path)) == [TimeRange(3000, None), None]


def test_blank_columns_make_no_ranges(tmp_path: Path) -> None:
    path = _csv(tmp_path / "m.csv", ("path", "start", "end"), ("a", "", " "), ("a", "nan", ""))
    table = MetaTable.read(path)
    assert not table.ranges and table.keys == ["a", "a"] and not MetaTable.check(path)


NUMBERS: list[tuple[Any, list[Any]]] = [
    (pa.float64(), [1.5, None, math.nan]),
    (pa.float32(), [1.5, None, math.nan]),
    (pa.decimal128(5, 2), ["1.50", None, None]),
    (pa.string(), ["1.5", None, ""]),
    (pa.dictionary(pa.int8(), pa.string()), ["1.5", None, " "]),
]


@pytest.mark.parametrize(("kind", "values"), NUMBERS, ids=lambda value: str(value)[:12])
def test_types_of_parquet_columns(tmp_path: Path, kind: pa.DataType, values: list[Any]) -> None:
    import decimal

    if pa.types.is_decimal(kind):
        values = [value and decimal.Decimal(value) for value in values]
    path = tmp_path / "m.parquet"
    starts = pa.array(values, kind)
    pq.write_table(
        pa.table({"path": ["a", "a", "b"], "start": starts, "end": pa.array([7, 8, None], pa.int64())}), path
    )
    assert MetaTable.check(path)
    assert _ranges(MetaTable.read(path)) == [TimeRange(1500, 7000), TimeRange(0, 8000), None]


@given(st.lists(st.tuples(st.floats(-1e6, 1e6) | st.none(), st.floats(-1e6, 1e6) | st.none())))
def test_all_rows_at_once_are_read_as_single_cells(times: list[tuple[float | None, float | None]]) -> None:
    cells = [tuple("" if time is None else repr(time) for time in pair) for pair in times]
    found = read_ranges("t", {"start": [start for start, _ in cells], "end": [end for _, end in cells]})
    expected = [TimeRange.from_cells(*pair) for pair in cells]
    assert list(found) == (expected if any(expected) else [])
    assert [range_of_cells(*pair) for pair in cells] == expected
    for part in expected:
        assert range_of_fields(range_fields(part)) == part


def test_a_time_in_another_form_is_a_usage_error(tmp_path: Path) -> None:
    for cell in ("0:00:01", "intro", "inf", "1e300", "1,5", "2024-01-01"):
        path = _csv(tmp_path / "m.csv", ("path", "start", "end"), ("a", 1, 2), ("b", 3, cell), ("c", "x", ""))
        path.write_text(path.read_text().replace("c,x", "c,1"))
        for read in (MetaTable.read, MetaTable.check):
            with pytest.raises(UsageError) as error:
                read(path)
            for part in (str(path), "'end'", "row 1", repr(cell), "seconds", "datautil", "--whole_files"):
                assert part in str(error.value)
        table = MetaTable.read(path, whole_files=True)
        assert not table.ranges and table.keys == ["a", "b", "c"] and table.cells(["end"])[0][1] == cell
        assert not MetaTable.check(path, whole_files=True)


def test_truth_values_and_dates_are_no_times(tmp_path: Path) -> None:
    for values in (
        pa.array([True]),
        pa.array([0], pa.timestamp("s")),
        pa.array([[1.0]]),
        pa.array([1], pa.time32("s")),
    ):
        pq.write_table(pa.table({"path": ["a"], "start": values}), tmp_path / "m.parquet")
        for read in (MetaTable.read, MetaTable.check):
            with pytest.raises(UsageError, match=r"'start', row 0: .* is not a time in seconds"):
                read(tmp_path / "m.parquet")


def test_two_columns_of_one_name_are_a_usage_error(tmp_path: Path) -> None:
    path = _csv(tmp_path / "m.csv", ("path", "start", "start"), ("a", 1, 1))
    for read in (MetaTable.read, MetaTable.check):
        with pytest.raises(UsageError, match=r"2 columns named 'start'.*--whole_files"):
            read(path)
        read(path, whole_files=True)


def test_captions_are_never_written_to_the_times() -> None:
    for name in ("start", "end"):
        with pytest.raises(UsageError, match=f"'{name}'"):
            Asks.single("?", name)


def test_rows_match_by_path_range_and_occurrence(tmp_path: Path) -> None:
    header = ("path", "start", "end")
    rows = [("a", 0, 1), ("a", 1, 2), ("b", 0, 1), ("a", 1, 2), ("a", "", ""), ("a", 0, "")]
    earlier = [("a", "1.0", "2"), ("a", "", ""), ("b", "0", "1"), ("a", "0.000", 1), ("a", "1e0", "2.0"), ("c", 0, 1)]
    table, other = (MetaTable.read(_csv(tmp_path / f"{i}.csv", header, *one)) for i, one in enumerate((rows, earlier)))
    assert matching_rows(table.keys, other.keys) == [3, 0, 2, 4, 1, -1]
    whole = MetaTable.read(_csv(tmp_path / "whole.csv", ("path",), ("a",), ("a",)))
    assert matching_rows(table.keys, whole.keys) == [-1, -1, -1, -1, 0, -1]
