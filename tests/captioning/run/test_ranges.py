"""Runs about tables whose rows are parts of files: what is kept, recorded, logged and refused."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.captioning.captioners.base import Caption
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.asks import Asks
from pipeline.captioning.meta.marks import read_truncated
from pipeline.captioning.meta.names import outcomes_path
from pipeline.captioning.meta.table import MetaTable
from pipeline.captioning.run.fingerprints import table_fingerprint
from pipeline.captioning.run.options import JobOptions, job_options
from pipeline.captioning.run.run_flags import make_parser
from tests.fakes import FakeSource, render_clip
from tests.runs import read_rows, run_job, write_meta


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(render_clip(tmp_path_factory.mktemp("clips") / "a.mp4"))


def _options(folder: Path, rows: Sequence[Sequence[object]]) -> JobOptions:
    """Options that caption a table with the columns path, start and end."""
    options = write_meta(folder, [])
    with options.meta_path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "start", "end"), *rows])
    return options


def _by_row(clip: Clip) -> Caption:
    return Caption(f"caption of row {clip.row}.", 3, truncated=clip.row == 1)


def _texts(options: JobOptions) -> list[str]:
    return [row["text"] for row in read_rows(options.output)]


def test_what_a_run_writes_about_parts_of_files(tmp_path: Path, clip: str, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(clip, "0.25", "0.5"), (clip, "5e-1", ""), (clip, "", ""), ("/nowhere.mp4", "1", "2.0")]
    options = _options(tmp_path, rows)
    with caplog.at_level(logging.INFO):
        assert run_job(options, FakeSource(caption=_by_row)) == [0]
    assert "column start, end: 3 of 4 rows are parts of their files; --whole_files captions whole files" in caplog.text
    assert "for example row 3 (/nowhere.mp4, 1.000 s to 2.000 s)" in caplog.text
    assert "row 3 (/nowhere.mp4, 1.000 s to 2.000 s): path:" in caplog.text
    assert [(row["path"], row["start"], row["end"]) for row in read_rows(options.output)] == rows
    (failure,) = read_rows(tmp_path / "out_failures.csv")
    assert (failure["row"], failure["start"], failure["end"], failure["stage"]) == ("3", "1.000", "2.000", "path")
    outcomes = [json.loads(line) for line in outcomes_path(options.output).read_text().splitlines()]
    assert [(one.get("start", "-"), one.get("end", "-")) for one in outcomes] == [
        (0.25, 0.5),
        (0.5, None),
        ("-", "-"),
        (1.0, 2.0),
    ]
    report = json.loads((tmp_path / "out_report.json").read_text())
    assert report["ranges"] == 3 and report["options"]["whole_files"] is False
    assert report["failure_examples"]["path"]["end"] == 2.0


def test_a_run_in_which_every_part_fails_names_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run_job(_options(tmp_path, [("/nowhere.mp4", "2", "")]), FakeSource()) == [1]
    (message,) = [record.getMessage() for record in caplog.records if "none of 1 rows" in record.getMessage()]
    assert "for example row 0 (/nowhere.mp4, 2.000 s to the end): path:" in message


def test_whole_files_ignores_the_columns(tmp_path: Path, clip: str, caplog: pytest.LogCaptureFixture) -> None:
    options = replace(_options(tmp_path, [(clip, "intro", "5"), ("/nowhere.mp4", 1, 2)]), whole_files=True)
    with caplog.at_level(logging.INFO):
        assert run_job(options, FakeSource()) == [0]
    assert "parts of their files" not in caplog.text
    assert list(read_rows(tmp_path / "out_failures.csv")[0]) == ["row", "path", "column", "stage", "message"]
    assert "start" not in outcomes_path(options.output).read_text()
    assert "ranges" not in json.loads((tmp_path / "out_report.json").read_text())
    again = FakeSource()
    run_job(replace(options, skip_if_existing=True), again)
    assert again.rows_captioned == [], "only the failed row is tried again"


def test_existing_captions_are_kept_by_path_and_range(tmp_path: Path, clip: str) -> None:
    options = _options(tmp_path, [(clip, "0", "0.25"), (clip, "0.25", "0.5"), (clip, "", "")])
    assert run_job(options, FakeSource(caption=_by_row)) == [0]
    # The same parts in another order and written in another way, and a new part.
    _options(tmp_path, [(clip, "", " "), (clip, 0.1, 0.2), (clip, "2.5e-1", "0.500"), (clip, "0.0", ".25")])
    again = replace(options, skip_if_existing=True)
    source = FakeSource(caption=lambda clip: Caption("new.", 3, False))
    assert run_job(again, source) == [0]
    assert _texts(options) == ["caption of row 2.", "new.", "caption of row 1.", "caption of row 0."]
    assert len(source.rows_captioned) == 1
    nothing_left = FakeSource()
    assert run_job(again, nothing_left) == [0] and nothing_left.loads == 0


def test_marks_of_parts_are_found_by_path_and_range(tmp_path: Path, clip: str) -> None:
    options = _options(tmp_path, [(clip, "0", "0.25"), (clip, "0.25", "0.5")])
    assert run_job(options, FakeSource(caption=_by_row)) == [0]
    table = MetaTable.read(options.output)
    truncated = read_truncated(outcomes_path(options.output), table.paths, table.ranges)
    assert truncated == {"text": {0: False, 1: True}}
    assert read_truncated(outcomes_path(options.output), table.paths, [TimeRange(0, 250), None]) == {"text": {0: False}}
    assert read_truncated(outcomes_path(options.output), table.paths) == {}
    redo = replace(options, skip_if_existing=True, redo=("unfinished",))
    assert run_job(redo, FakeSource(caption=lambda clip: Caption("new.", 3, False))) == [0]
    assert _texts(options) == ["caption of row 0.", "new."]


def test_ranges_are_part_of_the_fingerprint_only_if_there_are_some(tmp_path: Path) -> None:
    asks = Asks.single("?")

    def entries(*rows: tuple[object, object], whole_files: bool = False) -> dict[str, str]:
        options = _options(tmp_path, [("a.mp4", *row) for row in rows])
        return table_fingerprint(MetaTable.read(options.meta_path, whole_files=whole_files), asks, [])

    first = entries((0, 1), (1, 2))
    assert first == entries(("0.0", "1e0"), ("1", "2.000")) and first.keys() == {"meta paths", "ranges"}
    others = [entries((1, 2), (0, 1)), entries((0, 1), (1, "")), entries((0, 1), ("", ""))]
    assert all(other["ranges"] != first["ranges"] for other in others)
    whole = entries((0, 1), (1, 2), whole_files=True)
    assert whole == entries(("", ""), ("", "")) and whole.keys() == {"meta paths"}


def test_the_flag(tmp_path: Path) -> None:
    for given in ([], ["--whole_files"]):
        flags = make_parser("caption", "").parse_args([str(tmp_path / "m.csv"), *given])
        assert job_options(flags).whole_files is bool(given)
