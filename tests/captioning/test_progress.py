"""Progress as the journals tell it: during a run, after a crash, after the end."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning import delivery, progress
from pipeline.captioning.journal_view import JournalView
from pipeline.captioning.meta.journal import Journal, journal_folder
from pipeline.captioning.meta.results import RowResult
from tests.captioning.test_job import _meta, _run
from tests.fakes import FakeSource, render_clip

EARLIER, RUN = "2026-11-20T09:00:00.000+00:00", "2026-11-21T10:00:00.000+00:00"


def _caption(row: int) -> RowResult:
    return RowResult(row, f"caption {row}", tokens=3)


def _json(capsys: pytest.CaptureFixture[str], meta: Path, *flags: str) -> dict:
    assert progress.main([str(meta), "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_run_under_way_and_then_dead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = tmp_path / "meta.csv"
    folder = journal_folder(tmp_path / "meta_caption.csv")
    with Journal(folder, 0, {}, EARLIER, 5) as book, Journal(folder, 7, {}, EARLIER, 1) as other:
        book.finish([_caption(0)])
        other.finish([_caption(9)])
    books = [Journal(folder, rank, {}, RUN, rows) for rank, rows in enumerate((4, 3))]
    books[0].finish([_caption(1), RowResult.failed(2, "decode", ["no picture"])])
    books[1].start([4, 5])
    books[1].finish([_caption(4)])
    figures = _json(capsys, meta)
    assert (figures["state"], figures["rows"], figures["done"], figures["failed"]) == ("running", 7, 3, 1)
    assert (figures["finished_before"], figures["left"], figures["captioned"]) == (2, 4, 2)
    assert figures["failure_examples"] == {"decode": {"row": 2, "message": "no picture"}}
    assert [(rank["rank"], rank["rows"], rank["done"]) for rank in figures["ranks"]] == [(0, 4, 2), (1, 3, 1)]
    assert figures["silent_ranks"] == []
    old = time.time() - 300
    os.utime(books[1].path, (old, old))
    assert _json(capsys, meta)["silent_ranks"] == [1]
    for book in books:  # what a kill leaves
        book._file.close()
        os.utime(book.path, (old, old))
    assert _json(capsys, meta)["state"] == "interrupted"
    assert progress.main([str(meta), "--watch", "off"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for part in ("interrupted", "3 of 7 clips", "1 failed", "2 finished by earlier runs", "row 2: no picture"):
        assert part in page, part


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    looker = JournalView(folder)
    assert looker.look() is None
    with Journal(folder, 0, {}, RUN, 9) as book:
        for row in range(3):
            book.finish([_caption(row)])
            view = looker.look()
            assert view is not None and view.done == row + 1
        with book.path.open("a") as file:
            file.write('{"row": 3, "cap')  # being written
        view = looker.look()
        assert view is not None and (view.done, view.rows) == (3, 9)
    book.path.unlink()
    assert looker.look() is None


def test_figures_of_a_whole_run_are_the_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watched by another thread until it ends; writing takes long enough to be seen."""
    write_outputs = delivery.write_outputs

    def write_slowly(*arguments: Any) -> None:
        time.sleep(3)
        write_outputs(*arguments)

    monkeypatch.setattr(delivery, "write_outputs", write_slowly)
    paths = [str(render_clip(tmp_path / f"{i}.mp4", i)) for i in range(6)] + ["/nowhere.mp4"]
    options = _meta(tmp_path, paths)
    source = FakeSource(on_batch=lambda batch: time.sleep(0.5))
    runner = threading.Thread(target=lambda: _run(options, source, workers=2))
    runner.start()
    flags = ["--output", str(options.output), "--interval", "0.1"]
    assert progress.main([str(options.meta_path), "--json", "--watch", "on", *flags]) == 0
    runner.join()
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [figures["state"] for figures in seen].count("waiting") == 1
    report = json.loads((tmp_path / "out_report.json").read_text())
    last_of_journals = [figures for figures in seen if figures["state"] != "finished"][-1]
    for figures in (seen[-1], last_of_journals):
        assert (figures["rows"], figures["captioned"], figures["failed"]) == (7, 6, 1)
        assert figures["failures_by_stage"] == report["failures_by_stage"]
    assert seen[-1]["clips_per_second"] == report["clips_per_second"]
    assert {figures["state"] for figures in seen} == {"waiting", "running", "finishing", "finished"}
    assert progress.main([str(options.meta_path), "--watch", "off", *flags]) == 0
    assert "finished" in capsys.readouterr().out


def test_wrong_use_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = tmp_path / "meta.csv"
    for flags in ([], ["--watch", "on"]):
        assert progress.main([str(meta), *flags]) == 2
        assert "no run to be seen" in capsys.readouterr().err
    meta.write_text("path\na.mp4\n")
    assert progress.main([str(meta), "--json"]) == 2
    assert "Has it begun" in capsys.readouterr().err
