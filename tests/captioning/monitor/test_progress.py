"""Progress from the journals: during a run, after a crash, after the end."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.captioning.journal import journal as journal_module
from pipeline.captioning.journal.folder import forget_failures, journal_folder, read_contents, remove_folder
from pipeline.captioning.journal.folder_id import folder_id
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.names import TEXT_COLUMN
from pipeline.captioning.meta.results import CaptionResult, Failure, RowResult
from pipeline.captioning.monitor import figures as run_figures
from pipeline.captioning.monitor import progress
from pipeline.captioning.monitor.journal_monitor import JournalMonitor
from pipeline.captioning.run import delivery
from pipeline.captioning.run.delivery import report_path
from tests.fakes import FakeSource, render_clip
from tests.runs import run_job, write_meta

EARLIER, RUN = "2026-11-20T09:00:00.000+00:00", "2026-11-21T10:00:00.000+00:00"


def _caption(row: int) -> RowResult:
    return RowResult(row, {TEXT_COLUMN: CaptionResult(f"caption {row}", tokens=3)})


def _failure(row: int, message: str) -> RowResult:
    return RowResult.failed(row, [TEXT_COLUMN], "decode", [message])


def _json(capsys: pytest.CaptureFixture[str], meta: Path, *flags: str) -> dict:
    assert progress.main([str(meta), "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_running_then_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = tmp_path / "meta.csv"
    folder = journal_folder(tmp_path / "meta_caption.csv")
    with Journal(folder, 0, {}, EARLIER, 5) as journal, Journal(folder, 7, {}, EARLIER, 1) as other:
        journal.finish([_caption(0)])
        other.finish([_caption(9)])
    journals = [Journal(folder, rank, {}, RUN, rows=7, ranks=2) for rank in range(2)]
    journals[0].lease([1, 2, 3])
    journals[0].loaded()
    journals[0].finish([_caption(1), _failure(2, "no picture")])
    journals[1].start([4, 5])
    journals[1].finish([_caption(4)])
    figures = _json(capsys, meta)
    assert (figures["state"], figures["rows"], figures["done"], figures["failed"]) == ("running", 9, 5, 1)
    assert (figures["finished_before"], figures["left"], figures["captioned"]) == (2, 4, 4)
    assert figures["failure_examples"] == {"decode": {"row": 2, "message": "no picture"}}
    assert [(rank["rank"], rank["leased"], rank["done"]) for rank in figures["ranks"]] == [(0, 3, 2), (1, 0, 1)]
    assert figures["silent_ranks"] == []
    old = time.time() - 300
    os.utime(journals[1].path, (old, old))
    assert _json(capsys, meta)["silent_ranks"] == [1]
    for journal in journals:  # as after a kill
        journal._file.close()
        os.utime(journal.path, (old, old))
    assert _json(capsys, meta)["state"] == "interrupted"
    assert progress.main([str(meta), "--watch", "off"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for part in ("interrupted", "5 of 9 clips", "1 failed", "2 finished by earlier runs", "row 2: no picture"):
        assert part in page, part


def test_forgotten_failures_are_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = journal_folder(tmp_path / "meta_caption.csv")
    with Journal(folder, 0, {}, EARLIER, 3) as journal:
        journal.finish([_caption(0), _failure(1, "no disk"), _failure(2, "no disk")])
    forget_failures(folder)
    figures = _json(capsys, tmp_path / "meta.csv")
    assert (figures["state"], figures["run"], figures["rows"], figures["failed"]) == ("interrupted", EARLIER, 3, 2)
    with Journal(folder, 0, {}, RUN, 2) as journal:
        journal.finish([_caption(1)])
        figures = _json(capsys, tmp_path / "meta.csv")
    assert (figures["rows"], figures["done"], figures["failed"], figures["finished_before"]) == (3, 2, 0, 1)
    assert figures["failures_by_stage"] == {} == figures["failure_examples"]


def test_a_waiting_rank_is_neither_silent_nor_slowest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = journal_folder(tmp_path / "meta_caption.csv")
    with Journal(folder, 0, {}, RUN, 6, 2) as first, Journal(folder, 1, {}, RUN, 6, 2) as second:
        first.finish([_caption(0)])
        first.record_waiting()
        second.finish([_caption(1), _caption(2)])
        old = time.time() - 300
        for journal in (first, second):
            os.utime(journal.path, (old, old))
        figures = _json(capsys, tmp_path / "meta.csv")
        assert (figures["silent_ranks"], figures["slowest_rank"]) == ([1], 1)
        first.start([5])
        os.utime(first.path, (old, old))
        assert _json(capsys, tmp_path / "meta.csv")["silent_ranks"] == [0, 1]


def test_without_locks_a_run_is_silent_not_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for workers on other hosts, or on file systems without locks."""
    folder = journal_folder(tmp_path / "meta_caption.csv")
    monkeypatch.setattr(journal_module, "lock", lambda file: False)
    journal = Journal(folder, 0, {}, RUN, 2)
    assert _json(capsys, tmp_path / "meta.csv")["state"] == "running"
    old = time.time() - 300
    os.utime(journal.path, (old, old))
    assert _json(capsys, tmp_path / "meta.csv")["state"] == "silent"
    with journal:
        pass
    assert _json(capsys, tmp_path / "meta.csv")["state"] == "interrupted"  # released, but with rows that are not done


def test_several_captions_for_one_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress counts rows. A row with a failure counts as failed, also if it has a caption in another column."""
    short, long = "text_short", "text_long"
    caption, too_long = CaptionResult("A dog.", tokens=3), Failure("prompt", ("too long",))
    with Journal(journal_folder(tmp_path / "meta_caption.csv"), 0, {}, RUN, 5) as journal:
        journal.finish([RowResult(0, {short: caption, long: caption}), RowResult(1, {short: caption, long: too_long})])
        journal.finish([RowResult.failed(2, [short, long], "decode", ["no picture"]), RowResult(3, {long: caption})])
        figures = _json(capsys, tmp_path / "meta.csv")
        assert progress.main([str(tmp_path / "meta.csv"), "--watch", "off"]) == 0
    assert (figures["rows"], figures["done"], figures["captioned"], figures["failed"]) == (5, 4, 2, 2)
    assert (figures["left"], figures["ranks"][0]["done"], figures["ranks"][0]["failed"]) == (1, 4, 2)
    assert figures["failures_by_stage"] == {"decode": 2, "prompt": 1}  # failures, as in the failures file
    assert figures["failure_examples"]["prompt"] == {"row": 1, "column": long, "message": "too long"}
    page = " ".join(capsys.readouterr().out.split())
    for part in ("4 of 5 clips, 2 failed", "row 1 (text_long): too long"):
        assert part in page, part


def test_journals_of_earlier_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(journal_folder(tmp_path / "meta_caption.csv"), 0, {}, RUN, 3) as journal:
        with journal.path.open("a") as file:
            file.write('{"row": 0, "caption": "A dog.", "tokens": 3}\n')
            file.write('{"row": 1, "stage": "decode", "messages": ["no", "picture"]}\n')
        figures = _json(capsys, tmp_path / "meta.csv")
    assert (figures["rows"], figures["done"], figures["failed"]) == (3, 2, 1)
    assert figures["failure_examples"] == {"decode": {"row": 1, "message": "no; picture"}}


def test_the_report_of_several_captions_counts_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its `captioned` and `failed` count captions, which `progress` does not show as clips."""
    report = {"run": RUN, "captioned": 11, "failed": 4, "finished_rows": 6, "failed_rows": 3, "clips_per_second": 2.0}
    report |= {"captioned_in_this_run": 11, "failed_in_this_run": 4, "failures_by_stage": {"prompt": 4}}
    report["failure_examples"] = {"prompt": {"row": 1, "path": "b.mp4", "column": "text_long", "message": "too long"}}
    report_path(tmp_path / "meta_caption.csv").write_text(json.dumps(report))
    figures = _json(capsys, tmp_path / "meta.csv")
    assert (figures["rows"], figures["done"], figures["captioned"], figures["failed"]) == (6, 6, 3, 3)
    assert progress.main([str(tmp_path / "meta.csv"), "--watch", "off"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "6 of 6 clips, 3 failed" in page and "row 1 (text_long): too long" in page


def test_an_earlier_report_is_not_the_end_of_this_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = tmp_path / "meta.csv"
    options = write_meta(tmp_path, [str(render_clip(tmp_path / "a.mp4", 0))])
    assert run_job(options, FakeSource()) == [0]
    flags = ["--output", str(options.output)]
    assert _json(capsys, meta, *flags)["state"] == "finished"
    folder = journal_folder(options.output)
    folder_id(folder)  # the next run is being planned
    os.utime(folder / "id", (time.time() + 5, time.time() + 5))
    monitor = JournalMonitor(folder)
    assert run_figures.poll(monitor, options.output, 60)["state"] == "waiting"
    # If that run was stopped before it wrote a journal, the report is still that of the last run.
    assert _json(capsys, meta, *flags)["state"] == "finished"
    waiting = progress.render(run_figures.poll(monitor, options.output, 60), options.output)
    watched = " ".join(map(str, waiting.renderables))
    assert "the run has not started" in watched and str(report_path(options.output)) in watched
    with Journal(folder, 0, {}, RUN, 1):
        assert run_figures.poll(monitor, options.output, 60)["state"] == "running"
    report_path(options.output).unlink()
    remove_folder(folder)
    assert run_figures.poll(monitor, options.output, 60)["state"] == "gone"  # the output is on another host


def test_while_journals_are_removed_the_last_progress_stays(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, {}, RUN, 3, 2) as first, Journal(tmp_path, 1, {}, RUN, 3, 2):
        monitor = JournalMonitor(tmp_path)
        run = monitor.poll()
        assert run is not None and run.rows == 3
        first.path.unlink()
        for _ in range(3):
            run = monitor.poll()
            assert run is not None and run.rows == 3
        remove_folder(tmp_path)
        assert monitor.poll() is None


def test_polls_read_new_lines(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    monitor = JournalMonitor(folder)
    assert monitor.poll() is None
    with Journal(folder, 0, {}, RUN, 9) as journal:
        for row in range(3):
            journal.finish([_caption(row)])
            run = monitor.poll()
            assert run is not None and run.done == row + 1
        with journal.path.open("a") as file:
            file.write('{"row": 3, "cap')  # the worker is still writing it
        run = monitor.poll()
        assert run is not None and (run.done, run.rows) == (3, 9)
    journal.path.unlink()
    assert monitor.poll() is None


def test_final_figures_agree_with_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`progress` watches the run in another thread. Writing takes 3 s, so that it sees the state `finishing`."""
    write_outputs = delivery.write_outputs

    def write_slowly(*arguments: Any) -> None:
        time.sleep(3)
        write_outputs(*arguments)

    monkeypatch.setattr(delivery, "write_outputs", write_slowly)
    paths = [str(render_clip(tmp_path / f"{i}.mp4", i)) for i in range(6)] + ["/nowhere.mp4"]
    options = write_meta(tmp_path, paths)
    source = FakeSource(on_batch=lambda batch: time.sleep(0.5))
    runner = threading.Thread(target=lambda: run_job(options, source, workers=2))
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


def test_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = tmp_path / "meta.csv"
    for flags in ([], ["--watch", "on"]):
        assert progress.main([str(meta), *flags]) == 2
        assert "no run found" in capsys.readouterr().err
    meta.write_text("path\na.mp4\n")
    assert progress.main([str(meta), "--json"]) == 2
    assert "Has the run started" in capsys.readouterr().err


def test_ranks_with_journals_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their results are not known here: the time left is unknown, and the run does not count as interrupted."""
    folder = journal_folder(tmp_path / "meta_caption.csv")
    with Journal(folder, 0, {}, RUN, rows=6, ranks=2) as journal:
        journal.loaded()
        journal.finish([_caption(0), _caption(3)])
        figures = _json(capsys, tmp_path / "meta.csv")
        assert (figures["state"], figures["done"], figures["left"]) == ("running", 2, 4)
        assert (figures["ranks_elsewhere"], figures["seconds_left"]) == (1, None)
        journal.release()
        assert _json(capsys, tmp_path / "meta.csv")["state"] == "finishing"
        assert progress.main([str(tmp_path / "meta.csv"), "--watch", "off"]) == 0
        assert "1 ranks keep their journals on other hosts" in " ".join(capsys.readouterr().out.split())


def test_speed_does_not_include_loading(tmp_path: Path) -> None:
    with Journal(tmp_path, 0, {}, RUN, rows=9) as journal:
        text = journal.path.read_text()
        session = text[text.index('"session": "') + 12 :].split(" ")[0]
        a_year_ago = session.replace(session[:4], str(int(session[:4]) - 1))
        journal.path.write_text(text.replace(session, a_year_ago))
        journal.loaded()
        time.sleep(0.5)
        journal.finish([_caption(0)])
        monitor = JournalMonitor(tmp_path)
        run = monitor.poll()
        assert run is not None and monitor.clips_per_second(run.ranks[0]) > 0.2


def test_tokens_and_cost_of_a_service_are_added_over_the_sessions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta, folder = tmp_path / "meta.csv", journal_folder(tmp_path / "meta_caption.csv")
    with Journal(folder, 0, {}, EARLIER, 5) as journal:
        assert _json(capsys, meta)["service"] is None
        journal.record_usage({"prompt_tokens": 1000, "completion_tokens": 10, "cost": 0.5, "answers": 4})
        journal.finish([_caption(0)])
        journal.record_usage({"prompt_tokens": 12000, "completion_tokens": 600, "cost": 1.125, "answers": 40})
    with Journal(folder, 0, {}, RUN, 4) as journal:
        used = {"prompt_tokens": 12000, "completion_tokens": 600, "cost": 1.125, "answers": 40}
        assert _json(capsys, meta)["service"] == used
        journal.record_usage({"prompt_tokens": 345, "completion_tokens": 78, "cost": 0.125, "answers": 2})
        used = {"prompt_tokens": 12345, "completion_tokens": 678, "cost": 1.25, "answers": 42}
        for _ in range(2):
            assert _json(capsys, meta)["service"] == used
        assert progress.main([str(meta), "--watch", "off"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "12,345 tokens in, 678 out, cost 1.25" in page
    assert read_contents(folder).finished == {TEXT_COLUMN: {0}}


def test_without_prices_there_is_no_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(journal_folder(tmp_path / "meta_caption.csv"), 0, {}, RUN, 5) as journal:
        journal.record_usage({"prompt_tokens": 7, "completion_tokens": 0, "answers": 1})
        assert progress.main([str(tmp_path / "meta.csv"), "--watch", "off"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "7 tokens in, 0 out" in page and "cost" not in page


def test_the_report_of_a_service_has_tokens_and_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = {"run": RUN, "captioned": 6, "failed": 0, "clips_per_second": 2.0, "failures_by_stage": {}}
    report |= {"captioned_in_this_run": 6, "failed_in_this_run": 0}
    report["service"] = {"requests": 7, "answers_paid": 6, "prompt_tokens": 2000, "completion_tokens": 90, "cost": 2.0}
    report["service"] |= {"cost_with_interrupted_runs": 3.5, "outcomes": {"success": 6}, "model": "m"}
    report_path(tmp_path / "meta_caption.csv").write_text(json.dumps(report))
    service = _json(capsys, tmp_path / "meta.csv")["service"]
    assert (service["prompt_tokens"], service["answers"], service["cost"]) == (2000, 6, 2.0)
    assert progress.main([str(tmp_path / "meta.csv"), "--watch", "off"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "2,000 tokens in, 90 out, cost 2.00 (3.50 with the interrupted runs)" in page
