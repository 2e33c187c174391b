"""Runs of several ranks: leased rows, journals on different hosts, checks that all ranks agree."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.captioning.journal.folder import journal_folder
from pipeline.captioning.process.errors import RunError, UsageError
from pipeline.captioning.run import finished_rows, job
from pipeline.captioning.run.model_work import ModelWork
from pipeline.captioning.run.options import JobOptions
from scripts.thread_ranks import run_ranks
from tests.captioning.run.test_job import _interrupt_after
from tests.fakes import CPU, FakeSource, render_clip
from tests.runs import read_rows, run_job, write_meta


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(render_clip(folder / f"{i}.mp4", i)) for i in range(7)]


def test_mass_failure_on_one_rank_is_forgotten_on_all(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished_rows, "FAILURE_WINDOW", 4)
    # Every second row is leased to rank 1. Its clips exist, except one, which fails for the same reason.
    paths = [str(tmp_path / f"gone {i}.mp4") for i in range(16)]
    for i in range(3, 16, 2):
        (tmp_path / f"gone {i}.mp4").symlink_to(clips[i % 7])
    options = write_meta(tmp_path, paths)
    assert all(isinstance(result, RunError) for result in run_job(options, FakeSource(), 2))
    for i in (*range(0, 16, 2), 1):
        (tmp_path / f"gone {i}.mp4").symlink_to(clips[i % 7])
    assert run_job(options, FakeSource(), 2) == [0, 0]
    assert all(row["text"] for row in read_rows(options.output))


def test_hosts_without_shared_folders(tmp_path: Path, clips: list[str]) -> None:
    """Two ranks with separate journal folders: nothing is lost, also after an interruption."""
    options = write_meta(tmp_path, clips)
    (tmp_path / "host").mkdir()
    sources = [_interrupt_after(1, FakeSource()), _interrupt_after(1, FakeSource())]

    def rank_main(world):  # type: ignore[no-untyped-def]
        own = options if world.rank == 0 else replace(options, output=tmp_path / "host" / "out.csv")
        return job.run_in_world(own, ModelWork(sources[world.rank], lambda: CPU), world)

    assert all(isinstance(result, BaseException) for result in run_ranks(2, rank_main))
    before = [row for source in sources for row in source.rows_captioned]
    sources = [FakeSource(), FakeSource()]
    assert run_ranks(2, rank_main) == [0, 0]
    after = [row for source in sources for row in source.rows_captioned]
    assert sorted(before + after) == list(range(7))
    assert all(row["text"] for row in read_rows(options.output))
    assert not journal_folder(tmp_path / "host" / "out.csv").exists()


def _run_in_types(options: JobOptions, source: FakeSource, dtypes: Sequence[str]) -> list[object]:
    def rank_main(world):  # type: ignore[no-untyped-def]
        return job.run_in_world(options, ModelWork(source, lambda: replace(CPU, dtype_name=dtypes[world.rank])), world)

    return run_ranks(len(dtypes), rank_main)


def test_different_computing_types_are_refused(tmp_path: Path, clips: list[str]) -> None:
    """The computing type depends on the device and is known only after the framework is imported."""
    options = write_meta(tmp_path, clips)
    mixed = _run_in_types(options, FakeSource(), ["float16", "bfloat16"])
    assert all(isinstance(result, UsageError) and "rank 1: bfloat16" in str(result) for result in mixed)
    assert not journal_folder(options.output).exists()
    first = _interrupt_after(1, FakeSource())
    _run_in_types(options, first, ["float16"])
    for dtypes in (["bfloat16"], ["bfloat16", "bfloat16"]):
        results = _run_in_types(options, FakeSource(), dtypes)
        assert all(isinstance(result, UsageError) and "in float16, this one" in str(result) for result in results)
    second = FakeSource()
    assert _run_in_types(options, second, ["float16", "float16"]) == [0, 0]
    assert sorted(first.rows_captioned + second.rows_captioned) == list(range(7))
    assert json.loads((tmp_path / "out_report.json").read_text())["fingerprint"]["computing type"] == "float16"


def test_a_fast_rank_captions_more_rows_than_a_slow_one(tmp_path: Path, clips: list[str]) -> None:
    options = replace(write_meta(tmp_path, clips * 8), batch_size=1)
    sources = [FakeSource(on_batch=lambda batch: time.sleep(1.0)), FakeSource()]

    def rank_main(world):  # type: ignore[no-untyped-def]
        return job.run_in_world(options, ModelWork(sources[world.rank], lambda: CPU), world)

    assert run_ranks(2, rank_main) == [0, 0]
    slow, fast = (source.rows_captioned for source in sources)
    assert sorted(slow + fast) == list(range(56)), "every row once"
    assert len(slow) < 14 and len(fast) > 42
    assert all(row["text"] for row in read_rows(options.output))


def test_texts_that_a_run_replaces_are_logged(
    tmp_path: Path, clips: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    options = replace(write_meta(tmp_path, clips[:4], ["mine", "", "mine too", ""]), limit=3)
    with caplog.at_level("INFO"):
        assert run_job(options, FakeSource()) == [0]
        assert "column 'text' of" in caplog.text and "holds 2 texts, which the output replaces" in caplog.text
        caplog.clear()
        assert run_job(replace(options, limit=None), FakeSource()) == [0]
        assert "out.csv holds 3 captions, which this run replaces (they are kept in out.csv.bak)" in caplog.text
        caplog.clear()
        assert run_job(replace(options, limit=None, skip_if_existing=True), FakeSource()) == [0]
        assert "holds" not in caplog.text


def test_journals_of_an_earlier_version_are_refused(tmp_path: Path, clips: list[str]) -> None:
    options = write_meta(tmp_path, clips)
    run_job(options, _interrupt_after(1, FakeSource()))
    journal = journal_folder(options.output) / "rank-00000.jsonl"
    journal.write_text(journal.read_text().replace(', "computing type": "float32"', ""))
    result = run_job(options, FakeSource())[0]
    assert isinstance(result, UsageError) and "an earlier version of this program" in str(result)
    assert run_job(replace(options, restart=True), FakeSource()) == [0]


def test_percent_signs_in_file_names_are_logged_unchanged(
    tmp_path: Path, clips: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "a%20b %s"
    folder.mkdir()
    options = write_meta(folder, clips[:1])
    for _ in range(2):
        assert run_job(options, FakeSource()) == [0]
    assert f"{options.output} holds 1 captions" in caplog.text


def test_all_ranks_report_the_same_cause(tmp_path: Path, clips: list[str]) -> None:
    def rank_main(world):  # type: ignore[no-untyped-def]
        if world.rank == 1:
            world.report_failure("MassFailure: the disk is gone")
        return job.run_in_world(options, ModelWork(FakeSource(), lambda: CPU), world)

    options = write_meta(tmp_path, clips)
    results = run_ranks(6, rank_main)
    reported = {str(result) for result in results if isinstance(result, RunError)}  # threads in a collective: no text
    assert reported == {"the run failed on rank 1: MassFailure: the disk is gone"}
