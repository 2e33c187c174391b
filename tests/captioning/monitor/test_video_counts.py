"""Progress of tables of segments: how many videos are complete, during a run and after its end."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline.captioning.journal.folder import forget_failures, journal_folder
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.names import TEXT_COLUMN, outcomes_path
from pipeline.captioning.meta.results import CaptionResult, RowResult
from pipeline.captioning.monitor import progress
from tests.fakes import FakeSource, render_clip
from tests.runs import run_job, write_meta

RUN, LATER = "2026-11-21T10:00:00.000+00:00", "2026-11-22T10:00:00.000+00:00"
SEGMENTS = {"ranges": "6 rows 0123456789abcdef"}
ROWS = [("a.mp4", 0, 5), ("b.mp4", 0, 5), ("a.mp4", 5, 9), ("c.mp4", "", ""), ("b.mp4", 5, 7), ("b.mp4", 7, 9)]


def _caption(row: int) -> RowResult:
    return RowResult(row, {TEXT_COLUMN: CaptionResult(f"caption {row}", tokens=3)})


def _write(path: Path, rows: Sequence[Sequence[object]] = ROWS) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "start", "end"), *rows])
    return path


def _json(capsys: pytest.CaptureFixture[str], meta: Path, *flags: str) -> dict:
    assert progress.main([str(meta), "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def _text(capsys: pytest.CaptureFixture[str], meta: Path, *flags: str) -> str:
    assert progress.main([str(meta), "--watch", "off", *flags]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_video_is_complete_when_all_its_segments_have_a_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    meta = _write(tmp_path / "meta.csv")
    if suffix == "parquet":
        pd.read_csv(meta).to_parquet(meta := tmp_path / "meta.parquet")
    folder = journal_folder(tmp_path / f"meta_caption.{suffix}")
    with Journal(folder, 0, SEGMENTS, RUN, 6, 2) as first, Journal(folder, 1, SEGMENTS, RUN, 6, 2) as second:
        assert _json(capsys, meta)["videos"] == {"total": 3, "complete": 0, "other_rows": 0}
        first.finish([_caption(0), _caption(1), _caption(4)])
        second.finish([RowResult.failed(2, [TEXT_COLUMN], "decode", ["no frames"])])
        assert _json(capsys, meta)["videos"]["complete"] == 1
        assert "1 of 3 videos complete (4 of 6 segments), 1 failed" in _text(capsys, meta)
        second.finish([_caption(3)])
        assert _json(capsys, meta)["videos"]["complete"] == 2
    forget_failures(folder)
    with Journal(folder, 0, SEGMENTS, LATER, 2) as first:
        first.finish([_caption(5)])
        # Video b is complete; a is not complete any more, because its failure does not count.
        figures = _json(capsys, meta)
    assert (figures["rows"], figures["done"], figures["videos"]["complete"]) == (6, 5, 2)


def test_rows_that_the_run_does_not_caption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As with --skip_if_existing or --limit."""
    meta = _write(tmp_path / "meta.csv")
    with Journal(journal_folder(tmp_path / "meta_caption.csv"), 0, SEGMENTS, RUN, 2) as journal:
        journal.finish([_caption(3)])
        page = _text(capsys, meta)
    assert "1 of 3 videos complete (1 of 2 segments)" in page
    assert "4 other rows of the table are not part of this run" in page


@pytest.mark.parametrize("case", ["whole files", "no table", "another table"])
def test_without_segments_clips_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    meta = tmp_path / "meta.csv"
    if case != "no table":
        _write(meta, ROWS[:2] if case == "another table" else ROWS)
    fingerprint = {} if case == "whole files" else SEGMENTS
    with Journal(journal_folder(tmp_path / "meta_caption.csv"), 0, fingerprint, RUN, 6) as journal:
        journal.finish([_caption(0), _caption(4)])
        assert _json(capsys, meta)["videos"] is None
        assert "2 of 6 clips" in _text(capsys, meta)


def test_after_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(render_clip(tmp_path / f"{name}.mp4", 1, frames=24)) for name in "ab"]
    options = write_meta(tmp_path, [])
    rows = [(paths[0], 0, 1), (paths[0], 1, 2), (paths[1], 0, 1), (paths[0], 90, 91), (paths[1], 1, 2)]
    meta = _write(options.meta_path, rows)
    assert run_job(replace(options, limit=4), FakeSource()) == [0]
    flags = ["--output", str(options.output)]
    figures = _json(capsys, meta, *flags)
    assert (figures["state"], figures["failed"]) == ("finished", 1)
    assert figures["videos"] == {"total": 2, "complete": 1, "other_rows": 1}  # a row of b is beyond --limit
    assert "1 of 2 videos complete (4 of 4 segments), 1 failed" in _text(capsys, meta, *flags)
    outcomes_path(options.output).unlink()
    assert "4 of 4 clips" in _text(capsys, meta, *flags)
