"""Columns of captions that an earlier output has, and the run does not make: kept with `--skip_if_existing`."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.run.options import JobOptions
from tests.fakes import FakeSource, render_clip
from tests.runs import read_rows, run_job, write_meta


def _source(*columns: str) -> FakeSource:
    return FakeSource(asks=Asks(tuple(Ask(column, Question(f"What is {column}?")) for column in columns)))


@pytest.fixture
def options(tmp_path: Path) -> JobOptions:
    """Options of a run with `--skip_if_existing`, whose output has the columns `text_short` and `text_long`."""
    options = write_meta(tmp_path, [str(render_clip(tmp_path / f"{n}.mp4", n, frames=3)) for n in range(3)])
    assert run_job(options, _source("text_short", "text_long")) == [0]
    return replace(options, skip_if_existing=True)


def test_nothing_is_left_if_the_asked_columns_are_complete(
    options: JobOptions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    written, files = options.output.read_bytes(), sorted(options.output.parent.iterdir())
    source = _source("text_short")
    assert run_job(options, source) == [0] and source.loads == 0
    assert options.output.read_bytes() == written and sorted(options.output.parent.iterdir()) == files
    assert "nothing is left to caption" in caplog.text and "will not have" not in caplog.text


def test_other_captions_are_kept_by_path(options: JobOptions, caplog: pytest.LogCaptureFixture) -> None:
    """Also in the runs after the next, in columns with any name, and if the rows have moved."""
    caplog.set_level(logging.INFO)
    before = {row["path"]: row for row in read_rows(options.output)}
    new = str(render_clip(options.meta_path.parent / "new.mp4", 7, frames=3))
    write_meta(options.meta_path.parent, [new, *reversed(before)])
    kept: list[str] = ["text_short", "text_long"]
    for column in ("summary", "light"):
        assert run_job(options, _source(column)) == [0]
        assert f"the new output keeps: {', '.join(map(repr, kept))}" in caplog.text
        assert json.loads(options.output.with_name("out_report.json").read_text())["kept_columns"] == kept
        kept.append(column)
        rows = read_rows(options.output)
        assert list(rows[0]) == ["path", "note", *kept] and all(row[column] for row in rows)
        assert [rows[0][name] for name in ("text_short", "text_long")] == ["", ""], "a new row has none"
        assert all(row[name] == before[row["path"]][name] for row in rows[1:] for name in ("text_short", "text_long"))
    assert run_job(options, _source("text_last")) == [0]
    assert list(read_rows(options.output)[0]) == ["path", "note", *kept, "text_last"]
    assert "will not have" not in caplog.text


def test_other_columns_are_those_of_the_meta_table(options: JobOptions, caplog: pytest.LogCaptureFixture) -> None:
    """A column that the user has removed there is removed, with a warning even if nothing is captioned."""
    paths = [row["path"] for row in read_rows(options.output)]
    with options.meta_path.open("w", newline="") as file:
        csv.writer(file).writerows([["path"], *([path] for path in paths)])
    source = _source("text_short")
    assert run_job(options, source) == [0] and source.loads == 0
    assert list(read_rows(options.output)[0]) == ["path", "text_long", "text_short"]
    assert "columns that the new output will not have" in caplog.text and "('note')" in caplog.text


def test_without_the_flag_they_are_in_the_backup_only(options: JobOptions, caplog: pytest.LogCaptureFixture) -> None:
    assert run_job(replace(options, skip_if_existing=False), _source("text_short")) == [0]
    assert list(read_rows(options.output)[0]) == ["path", "note", "text_short"]
    assert "('text_long'): they are kept in out.csv.bak" in caplog.text
