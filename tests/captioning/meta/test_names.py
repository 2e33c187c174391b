"""Names of tables, and of the files next to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline.captioning.meta.names import (
    check_output,
    column_list,
    default_output,
    failures_path,
    gallery_path,
    outcomes_path,
    report_path,
    stem_of,
)
from pipeline.captioning.process.errors import UsageError
from tests.fakes import FakeSource, render_clip
from tests.runs import run_job, write_meta


@pytest.mark.parametrize(
    ("table", "stem", "output"),
    [
        ("d/meta.csv", "meta", "d/meta_caption.csv"),
        ("d/meta.csv.gz", "meta", "d/meta_caption.csv.gz"),
        ("d/a.b.CSV.GZ", "a.b", "d/a.b_caption.CSV.GZ"),
        ("d/meta.pq", "meta", "d/meta_caption.pq"),
        ("d/meta.txt", "meta", "d/meta_caption.csv"),  # read as CSV, so it is written as CSV
        ("d/meta", "meta", "d/meta_caption.csv"),
        ("d/.csv", ".csv", "d/.csv_caption.csv"),
    ],
)
def test_stem_and_default_output(table: str, stem: str, output: str) -> None:
    assert stem_of(Path(table)) == stem
    assert str(default_output(Path(table))) == output


@pytest.mark.parametrize("name", ["x.json", "x.tsv", "x.txt", "x", "x.gz", "x.csv.bak", "x.xlsx"])
def test_an_output_with_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
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


def test_column_lists_in_messages_are_quoted_and_short() -> None:
    assert column_list(["a", " b"]) == "'a', ' b'"
    assert column_list([]) == "none"
    many = column_list(["x" * 10_000, *map(str, range(1000))])
    assert many.endswith("'18' and 981 more") and len(many) < 300


def test_tables_with_one_stem_share_no_files() -> None:
    output = Path("data/s_caption.csv")
    names = [name(output).name for name in (failures_path, report_path, outcomes_path, gallery_path)]
    assert names == [
        "s_caption_failures.csv",
        "s_caption_report.json",
        "s_caption_outcomes.jsonl",
        "s_caption_gallery.html",
    ]
    assert report_path(Path("data/s_caption.parquet")) == Path("data/s_caption.parquet_report.json")
    assert failures_path(Path("s_caption.csv.gz")) == Path("s_caption.csv.gz_failures.csv")
    assert report_path(Path("v1.2/s.of.2024.csv")) == Path("v1.2/s.of.2024_report.json")
    tables = ["s.csv", "s.parquet", "s.pq", "s.csv.gz", "s.parquet.csv", "s.csv.gz.csv", "s.csv.csv", "s.CSV"]
    assert len({report_path(Path(table)) for table in tables}) == len(tables)


def test_runs_on_a_csv_and_a_parquet_table_with_one_stem(tmp_path: Path) -> None:
    clip = str(render_clip(tmp_path / "a.mp4"))
    assert run_job(write_meta(tmp_path, [clip, "/nowhere.mp4"]), FakeSource()) == [0]
    failures, report = tmp_path / "out_failures.csv", tmp_path / "out_report.json"
    before = failures.read_bytes(), report.read_bytes()
    pd.DataFrame({"path": [clip]}).to_parquet(tmp_path / "meta.parquet")
    options = write_meta(tmp_path, [])
    options = replace(options, meta_path=tmp_path / "meta.parquet", output=tmp_path / "out.parquet")
    assert run_job(options, FakeSource()) == [0]
    assert (failures.read_bytes(), report.read_bytes()) == before
    assert json.loads((tmp_path / "out.parquet_report.json").read_text())["failed"] == 0


def test_names_of_columns_are_known_without_pandas() -> None:
    """Checking a checkpoint and its questions needs the names, and no table."""
    program = (
        "import sys, pipeline.captioning.captioners.hub.build, pipeline.captioning.captioners.pllava.source, "
        "pipeline.captioning.run.prompt_flags; print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
