"""Progress as the journals tell it: during a run, after a crash, after the end."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.journal import journal
from pipeline.captioning.journal.folder import forget_failures, journal_folder, remove_folder
from pipeline.captioning.journal.folder_id import folder_id
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.results import RowResult
from pipeline.captioning.monitor import progress
from pipeline.captioning.monitor.journal_monitor import JournalMonitor
from pipeline.captioning.run import delivery
from pipeline.captioning.run.delivery import report_path
from tests.captioning.run.test_job import _meta, _run
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
    books = [Journal(folder, rank, {}, RUN, rows=7, ranks=2) for rank in range(2)]
    books[0].lease([1, 2, 3])
    books[0].loaded()
    books[0].finish([_caption(1), RowResult.failed(2, "decode", ["no picture"])])
    books[1].start([4, 5])
    books[1].finish([_caption(4)])
    figures = _json(capsys, meta)
    assert (figures["state"], figures["rows"], figures["done"], figures["failed"]) == ("running", 9, 5, 1)
    assert (figures["finished_before"], figures["left"], figures["captioned"]) == (2, 4, 4)
    assert figures["failure_examples"] == {"decode": {"row": 2, "message": "no picture"}}
    assert [(rank["rank"], rank["leased"], rank["done"]) for rank in figures["ranks"]] == [(0, 3, 2), (1, 0, 1)]
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
    for part in ("interrupted", "5 of 9 clips", "1 failed", "2 finished by earlier runs", "row 2: no picture"):
        assert part in page, part


def test_failures_that_are_tried_again_are_counted_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = journal_folder(tmp_path / "meta_caption.csv")
    with Journal(folder, 0, {}, EARLIER, 3) as book:
        book.finish(
            [_caption(0), RowResult.failed(1, "decode", ["no disk"]), RowResult.failed(2, "decode", ["no disk"])]
        )
    forget_failures(folder)
    figures = _json(capsys, tmp_path / "meta.csv")
    assert (figures["state"], figures["run"], figures["rows"], figures["failed"]) == ("interrupted", EARLIER, 3, 2)
    with Journal(folder, 0, {}, RUN, 2) as book:
        book.finish([_caption(1)])
        figures = _json(capsys, tmp_path / "meta.csv")
    assert (figures["rows"], figures["done"], figures["failed"], figures["finished_before"]) == (3, 2, 0, 1)
    assert figures["failures_by_stage"] == {} == figures["failure_examples"]


def test_a_rank_that_waits_is_neither_silent_nor_slow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = journal_folder(tmp_path / "meta_caption.csv")
    with Journal(folder, 0, {}, RUN, 6, 2) as first, Journal(folder, 1, {}, RUN, 6, 2) as second:
        first.finish([_caption(0)])
        first.wait()
        second.finish([_caption(1), _caption(2)])
        old = time.time() - 300
        for book in (first, second):
            os.utime(book.path, (old, old))
        figures = _json(capsys, tmp_path / "meta.csv")
        assert (figures["silent_ranks"], figures["slowest_rank"]) == ([1], 1)
        first.start([5])
        os.utime(first.path, (old, old))
        assert _json(capsys, tmp_path / "meta.csv")["silent_ranks"] == [0, 1]


def test_workers_out_of_sight_are_not_called_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other hosts, or where there are no locks."""
    folder = journal_folder(tmp_path / "meta_caption.csv")
    monkeypatch.setattr(journal, "lock", lambda file: False)
    book = Journal(folder, 0, {}, RUN, 2)
    assert _json(capsys, tmp_path / "meta.csv")["state"] == "running"
    old = time.time() - 300
    os.utime(book.path, (old, old))
    assert _json(capsys, tmp_path / "meta.csv")["state"] == "silent"
    with book:
        pass
    assert _json(capsys, tmp_path / "meta.csv")["state"] == "interrupted"  # in order, but not all was done


def test_an_earlier_report_is_not_the_end_of_this_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = tmp_path / "meta.csv"
    options = _meta(tmp_path, [str(render_clip(tmp_path / "a.mp4", 0))])
    assert _run(options, FakeSource()) == [0]
    flags = ["--output", str(options.output)]
    assert _json(capsys, meta, *flags)["state"] == "finished"
    folder = journal_folder(options.output)
    folder_id(folder)  # a run is being planned
    os.utime(folder / "id", (time.time() + 5, time.time() + 5))
    looker = JournalMonitor(folder)
    assert progress.look(looker, options.output, 60)["state"] == "waiting"
    with Journal(folder, 0, {}, RUN, 1):
        assert progress.look(looker, options.output, 60)["state"] == "running"
    report_path(options.output).unlink()
    remove_folder(folder)
    assert progress.look(looker, options.output, 60)["state"] == "gone"  # the output is on another host


def test_what_is_left_of_journals_being_removed_is_not_the_run(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, {}, RUN, 3, 2) as first, Journal(tmp_path, 1, {}, RUN, 3, 2):
        looker = JournalMonitor(tmp_path)
        view = looker.look()
        assert view is not None and view.rows == 3
        first.path.unlink()
        for _ in range(3):
            view = looker.look()
            assert view is not None and view.rows == 3
        remove_folder(tmp_path)
        assert looker.look() is None


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    looker = JournalMonitor(folder)
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


def test_usage_error_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = tmp_path / "meta.csv"
    for flags in ([], ["--watch", "on"]):
        assert progress.main([str(meta), *flags]) == 2
        assert "no run to be seen" in capsys.readouterr().err
    meta.write_text("path\na.mp4\n")
    assert progress.main([str(meta), "--json"]) == 2
    assert "Has it begun" in capsys.readouterr().err


def test_ranks_that_keep_their_journals_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What they have done is not known here, so neither the time left nor an interruption is told."""
    folder = journal_folder(tmp_path / "meta_caption.csv")
    with Journal(folder, 0, {}, RUN, rows=6, ranks=2) as book:
        book.loaded()
        book.finish([_caption(0), _caption(3)])
        figures = _json(capsys, tmp_path / "meta.csv")
        assert (figures["state"], figures["done"], figures["left"]) == ("running", 2, 4)
        assert (figures["ranks_elsewhere"], figures["seconds_left"]) == (1, None)
        book.release()
        assert _json(capsys, tmp_path / "meta.csv")["state"] == "finishing"
        assert progress.main([str(tmp_path / "meta.csv"), "--watch", "off"]) == 0
        assert "1 ranks keep their journals on other hosts" in " ".join(capsys.readouterr().out.split())


def test_loading_does_not_count_as_captioning(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, {}, RUN, rows=9) as book:
        text = book.path.read_text()
        session = text[text.index('"session": "') + 12 :].split(" ")[0]
        an_hour_ago = session.replace(session[:4], str(int(session[:4]) - 1))
        book.path.write_text(text.replace(session, an_hour_ago))
        book.loaded()
        time.sleep(0.5)
        book.finish([_caption(0)])
        looker = JournalMonitor(tmp_path)
        view = looker.look()
        assert view is not None and looker.clips_per_second(view.ranks[0]) > 0.2
