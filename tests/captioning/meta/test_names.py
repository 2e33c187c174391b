"""Which names are tables, and what is named after them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.captioning.errors import UsageError
from pipeline.captioning.meta.names import (
    check_output,
    column_list,
    default_output,
    stem_of,
)


@pytest.mark.parametrize(
    ("table", "stem", "output"),
    [
        ("d/meta.csv", "meta", "d/meta_caption.csv"),
        ("d/meta.csv.gz", "meta", "d/meta_caption.csv.gz"),
        ("d/a.b.CSV.GZ", "a.b", "d/a.b_caption.CSV.GZ"),
        ("d/meta.pq", "meta", "d/meta_caption.pq"),
        ("d/meta.txt", "meta", "d/meta_caption.csv"),  # read as CSV, so written as CSV
        ("d/meta", "meta", "d/meta_caption.csv"),
        ("d/.csv", ".csv", "d/.csv_caption.csv"),
    ],
)
def test_names_follow_the_table(table: str, stem: str, output: str) -> None:
    assert stem_of(Path(table)) == stem
    assert str(default_output(Path(table))) == output


@pytest.mark.parametrize("name", ["x.json", "x.tsv", "x.txt", "x", "x.gz", "x.csv.bak", "x.xlsx"])
def test_an_output_of_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"none of \.csv, \.csv\.gz, \.parquet, \.pq"):
        check_output(tmp_path / name)


def test_an_output_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "fifo.csv")
    for name, message in (
        ("folder.csv", "is a folder"),
        ("fifo.csv", "not a regular file"),
        ("none/out.csv", "none, does not exist"),
        ("fifo.csv/out.csv", "fifo.csv, does not exist"),
        ("x" * 230 + ".csv", "longer than 200 bytes"),
    ):
        with pytest.raises(UsageError, match=message):
            check_output(tmp_path / name)
    check_output(tmp_path / ("x" * 190 + ".csv.gz"))


def test_lists_of_columns_are_quoted_and_short() -> None:
    assert column_list(["a", " b"]) == "'a', ' b'"
    assert column_list([]) == "none"
    many = column_list(["x" * 10_000, *map(str, range(1000))])
    assert many.endswith("'18' and 981 more") and len(many) < 300
