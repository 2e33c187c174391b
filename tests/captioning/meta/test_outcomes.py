"""The outcomes file: one line for each row, for every kind of outcome."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.captioning.captioners.base import Caption
from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.journal.folder import journal_folder, journals
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.outcomes import read_outcomes, write_outcomes
from pipeline.captioning.meta.results import CaptionResult, ColumnResults, Failure, RowResult
from pipeline.captioning.process.errors import RunError
from tests.fakes import FakeSource, render_clip
from tests.runs import run_job, write_meta

LOOP = "on and on and on and on and on"


def _caption(clip: Clip) -> Caption:
    return {
        1: Caption("A dog runs.", 4, False),
        2: Caption("A dog runs over", 9, True),
        3: Caption(LOOP, 12, False),
    }.get(clip.row, Caption("A part.", 3, False))


def _rows_of_every_outcome(folder: Path) -> tuple[list[str], list[str]]:
    """Paths and texts of a table with rows of every kind of outcome."""
    whole = [str(render_clip(folder / f"{i}, ü.mkv", i, frames=40)) for i in range(5)]
    cut = folder / "cut.mkv"
    cut.write_bytes(Path(whole[0]).read_bytes()[:-600])
    paths = [whole[0], whole[1], whole[2], whole[3], "/nowhere.mkv", str(cut), whole[4]]
    return paths, ["mine", "", "", "", "", "", ""]


def test_every_row_has_its_outcome(tmp_path: Path) -> None:
    paths, texts = _rows_of_every_outcome(tmp_path)
    written = set()
    for workers in (1, 3):
        options = replace(write_meta(tmp_path, paths, texts), skip_if_existing=True, limit=5)
        assert run_job(options, FakeSource(caption=_caption), workers) == [0] * workers
        written.add((tmp_path / "out_outcomes.jsonl").read_bytes())
        options.output.unlink()
    assert len(written) == 1, "the file must not depend on the number of workers"
    (data,) = written
    captioned = {"outcome": "captioned", "truncated": False, "looping": False, "partial": False, "media": "video"}
    records = [json.loads(line) for line in data.decode().splitlines()]
    assert {record.pop("column") for record in records} == {"text"}
    assert records == [
        {"row": 0, "path": paths[0], "outcome": "kept"},
        {"row": 1, "path": paths[1], **captioned, "tokens": 4},
        {"row": 2, "path": paths[2], **captioned, "tokens": 9, "truncated": True},
        {"row": 3, "path": paths[3], **captioned, "tokens": 12, "looping": True},
        {"row": 4, "path": paths[4], "outcome": "failed", "stage": "path", "message": "no such file"},
        {"row": 5, "path": paths[5], **captioned, "tokens": 3, "partial": True},
        {"row": 6, "path": paths[6], "outcome": "excluded"},
    ]


def test_each_column_of_a_row_has_its_own_outcome(tmp_path: Path) -> None:
    write_outcomes(
        tmp_path / "o.jsonl",
        ["a.mp4", "b.jpg", "c.mp4"],
        {
            'a "1"': ColumnResults({0: CaptionResult("x", 3, truncated=True), 1: CaptionResult("y", 4)}, {}),
            "b": ColumnResults({}, {1: Failure("prompt", ("m", "n"))}),
        },
        kept={'a "1"': (), "b": {0: "z"}},
        excluded={2},
        partial={0},
        images={1},
    )
    captioned = {"outcome": "captioned", "truncated": False, "looping": False, "partial": False}
    video, image = captioned | {"media": "video", "partial": True}, captioned | {"media": "image"}
    assert list(read_outcomes(tmp_path / "o.jsonl")) == [
        {"row": 0, "path": "a.mp4", "column": 'a "1"', **video, "tokens": 3, "truncated": True},
        {"row": 0, "path": "a.mp4", "column": "b", "outcome": "kept"},
        {"row": 1, "path": "b.jpg", "column": 'a "1"', **image, "tokens": 4},
        {"row": 1, "path": "b.jpg", "column": "b", "outcome": "failed", "stage": "prompt", "message": "m; n"},
        {"row": 2, "path": "c.mp4", "column": 'a "1"', "outcome": "excluded"},
        {"row": 2, "path": "c.mp4", "column": "b", "outcome": "excluded"},
    ]


def test_seconds_that_a_run_measured_are_in_the_outcomes(tmp_path: Path) -> None:
    """From the journal to the file. Rows without a measurement have no such field."""
    options = write_meta(tmp_path, [str(render_clip(tmp_path / f"{i}.mp4", i)) for i in range(4)])
    run_job(options, FakeSource(on_batch=_interrupt))
    folder = journal_folder(options.output)
    fingerprint = json.loads(journals(folder)[0].read_text().splitlines()[0])["fingerprint"]
    failure, caption = {"text": Failure("caption", ("no",))}, {"text": CaptionResult("A dog.", 3)}
    with Journal(folder, 0, fingerprint) as journal:
        journal.finish([RowResult(0, caption, seconds=1.25), RowResult(1, failure, seconds=0.5)])
        # Of two results of a row, the caption is used; so is its time.
        journal.finish([RowResult(2, caption, seconds=3.0), RowResult(2, failure, seconds=2.0)])
    assert run_job(options, FakeSource()) == [0]
    records = list(read_outcomes(tmp_path / "out_outcomes.jsonl"))
    assert [record["outcome"] for record in records] == ["captioned", "failed", "captioned", "captioned"]
    assert [record.get("seconds") for record in records] == [1.25, 0.5, 3.0, None]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_table_is_written_after_the_outcomes(tmp_path: Path) -> None:
    """If the table exists, so do all other files. So there is no table if the outcomes can't be written."""
    options = write_meta(tmp_path, [str(render_clip(tmp_path / "a.mp4"))])
    (tmp_path / "out_outcomes.jsonl").mkdir()
    (error,) = run_job(options, FakeSource())
    assert isinstance(error, RunError) and "can't write" in str(error) and "out_outcomes.jsonl" in str(error)
    assert not options.output.exists()


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    rows = 30_000
    paths = [f"clips/{row}.mp4" for row in range(rows)]
    kept = {column: dict.fromkeys(range(rows), "") for column in ("a", "b")}
    results = dict.fromkeys(kept, ColumnResults({}, {}))
    tracemalloc.start()
    try:
        write_outcomes(tmp_path / "o.jsonl", paths, results, kept, excluded=())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "o.jsonl").stat().st_size > 3_000_000 > 5 * peak


def test_other_files_are_not_read_as_outcomes(tmp_path: Path) -> None:
    path = tmp_path / "o.jsonl"
    for text in ("not json\n", "[1]\n", '{"row": 1}\n'):
        path.write_text('{"row": 0, "path": "a", "outcome": "kept"}\n' + text)
        with pytest.raises(ValueError):
            list(read_outcomes(path))
