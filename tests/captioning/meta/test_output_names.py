"""Tables of one folder do not share the files beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pipeline.captioning.meta.names import failures_path, gallery_path, outcomes_path, report_path
from tests.captioning.test_job import _meta, _run
from tests.fakes import FakeSource, render_clip


def test_names() -> None:
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


def test_a_csv_and_a_parquet_table_of_one_name(tmp_path: Path) -> None:
    clip = str(render_clip(tmp_path / "a.mp4"))
    assert _run(_meta(tmp_path, [clip, "/nowhere.mp4"]), FakeSource()) == [0]
    failures, report = tmp_path / "out_failures.csv", tmp_path / "out_report.json"
    before = failures.read_bytes(), report.read_bytes()
    pd.DataFrame({"path": [clip]}).to_parquet(tmp_path / "meta.parquet")
    options = _meta(tmp_path, [])
    options = replace(options, meta_path=tmp_path / "meta.parquet", output=tmp_path / "out.parquet")
    assert _run(options, FakeSource()) == [0]
    assert (failures.read_bytes(), report.read_bytes()) == before
    assert json.loads((tmp_path / "out.parquet_report.json").read_text())["failed"] == 0
