"""Complete runs without a model: ranks are threads; clips and journals are real."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.captioning.clips.clip import Clip
from pipeline.captioning.journal.folder import journal_folder
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.meta.asks import Ask, Asks, Question
from pipeline.captioning.meta.results import CaptionResult, RowResult
from pipeline.captioning.process.errors import RunError, UsageError
from pipeline.captioning.run import finished_rows, plan
from pipeline.captioning.run.options import JobOptions
from tests.fakes import FakeSource, render_clip
from tests.runs import read_rows, run_job, write_meta


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(render_clip(folder / f"clip {i}, ü.mp4", i)) for i in range(7)]


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_rows_and_workers(tmp_path: Path, clips: list[str], rows: int, workers: int) -> None:
    options = write_meta(tmp_path, clips[:rows])
    assert run_job(options, FakeSource(), workers) == [0] * workers
    written = read_rows(options.output)
    assert [row["path"] for row in written] == clips[:rows]
    assert len({row["text"] for row in written}) == rows
    assert all(row["note"] == f'n "{i}",\n' for i, row in enumerate(written))
    assert not journal_folder(options.output).exists()


def test_output_does_not_depend_on_workers_or_batches(tmp_path: Path, clips: list[str]) -> None:
    outputs = set()
    for workers, batch_size in ((1, 1), (2, 5), (3, 2), (8, 2)):
        options = replace(write_meta(tmp_path, [*clips, "missing.mp4"]), batch_size=batch_size)
        assert run_job(options, FakeSource(), workers) == [0] * workers
        outputs.add(options.output.read_bytes())
    assert len(outputs) == 1


def test_failed_rows_are_reported_and_other_rows_are_captioned(tmp_path: Path, clips: list[str]) -> None:
    options = write_meta(tmp_path, [clips[0], "", "/nowhere.mp4", clips[1]])
    assert run_job(options, FakeSource(), 2) == [0, 0]
    assert [bool(row["text"]) for row in read_rows(options.output)] == [True, False, False, True]
    failures = read_rows(tmp_path / "out_failures.csv")
    assert [(row["row"], row["stage"]) for row in failures] == [("1", "path"), ("2", "path")]
    report = json.loads((tmp_path / "out_report.json").read_text())
    assert (report["captioned"], report["failed"], report["failures_by_stage"]) == (2, 2, {"path": 2})
    assert report["tokens"] == 14 and report["workers"] == 2
    assert report["stages"] == {"vision_seconds": 0.5} and report["clips_at_once"] == 2
    assert report["decode_wait_seconds"] > 0 and 0 < report["decode_wait_share"] < 1


def test_nothing_is_written_when_nothing_could_be_captioned(tmp_path: Path, clips: list[str]) -> None:
    options = write_meta(tmp_path, [str(tmp_path / f"{i}.mp4") for i in range(3)])
    assert run_job(options, FakeSource(), 2) == [1, 1]
    assert not options.output.exists()
    for i in range(3):  # the clips exist now
        (tmp_path / f"{i}.mp4").symlink_to(clips[i])
    assert run_job(options, FakeSource(), 2) == [0, 0]
    assert all(row["text"] for row in read_rows(options.output))


def test_skip_keeps_captions_and_captions_failed_rows_again(tmp_path: Path, clips: list[str]) -> None:
    options = write_meta(tmp_path, [clips[0], str(tmp_path / "late.mp4"), clips[1]])
    run_job(options, FakeSource())
    first = read_rows(options.output)
    (tmp_path / "late.mp4").symlink_to(clips[2])
    write_meta(tmp_path, [clips[3], clips[0], str(tmp_path / "late.mp4"), clips[1]])  # with a new first row
    source = FakeSource()
    skipping = replace(options, skip_if_existing=True)
    assert run_job(skipping, source) == [0]
    assert sorted(source.rows_captioned) == [0, 2]
    assert [row["text"] for row in read_rows(options.output)][1::2] == [first[0]["text"], first[2]["text"]]
    assert not (tmp_path / "out_failures.csv").exists()
    again = FakeSource()
    written = options.output.stat().st_mtime_ns
    assert run_job(skipping, again) == [0]
    assert (again.loads, options.output.stat().st_mtime_ns) == (0, written)


def test_skip_also_keeps_captions_of_the_meta_table(tmp_path: Path, clips: list[str]) -> None:
    options = replace(write_meta(tmp_path, clips[:3], ["", "mine", " "]), skip_if_existing=True)
    source = FakeSource()
    assert run_job(options, source) == [0]
    assert (sorted(source.rows_captioned), read_rows(options.output)[1]["text"]) == ([0, 2], "mine")


def test_skip_matches_rows_of_a_changed_table_by_path(tmp_path: Path, clips: list[str]) -> None:
    options = replace(write_meta(tmp_path, clips[:2], ["", "mine"]), skip_if_existing=True)
    assert run_job(options, FakeSource()) == [0]
    first = read_rows(options.output)
    write_meta(tmp_path, [clips[1], clips[2], clips[0]], ["mine", "new and captioned", ""])
    source = FakeSource()
    assert run_job(options, source) == [0]
    assert source.loads == 0
    assert [row["text"] for row in read_rows(options.output)] == ["mine", "new and captioned", first[0]["text"]]


def test_without_skip_all_rows_are_captioned_again(tmp_path: Path, clips: list[str]) -> None:
    options = write_meta(tmp_path, clips[:2], ["old", "old"])
    for _ in range(2):
        source = FakeSource()
        assert run_job(options, source) == [0]
        assert sorted(source.rows_captioned) == [0, 1]
    assert (tmp_path / "out.csv.bak").exists()


class _Interrupted(BaseException):
    pass


def _interrupt_after(batches: int, source: FakeSource) -> FakeSource:
    def on_batch(batch: Sequence[Clip]) -> None:
        if len(source.rows_captioned) >= 2 * batches:
            raise _Interrupted

    source.on_batch = on_batch
    return source


@pytest.mark.parametrize("workers", [1, 3])
def test_resume_does_not_caption_finished_rows_again(tmp_path: Path, clips: list[str], workers: int) -> None:
    options = write_meta(tmp_path, ["missing.mp4", *clips])
    undisturbed = replace(options, output=tmp_path / "undisturbed.csv")
    run_job(undisturbed, FakeSource())
    first = _interrupt_after(2, FakeSource())
    assert isinstance(run_job(options, first)[0], _Interrupted)
    assert not options.output.exists()
    second = FakeSource()
    assert run_job(replace(options, batch_size=1), second, workers) == [0] * workers
    assert sorted(first.rows_captioned + second.rows_captioned) == list(range(1, 8))
    assert options.output.read_bytes() == undisturbed.output.read_bytes()


def test_journals_of_another_run_are_refused(tmp_path: Path, clips: list[str]) -> None:
    options = write_meta(tmp_path, clips)
    run_job(options, _interrupt_after(1, FakeSource()))
    other = FakeSource(settings={"prompt": "b"})
    results = run_job(options, other, 2)
    assert isinstance(results[0], UsageError) and "prompt: a in the journals, b now" in str(results[0])
    assert isinstance(results[1], RunError)
    assert run_job(replace(options, restart=True), other) == [0]
    assert sorted(other.rows_captioned) == list(range(7))


@pytest.mark.parametrize("workers", [1, 3])
def test_weights_that_do_not_fit_change_no_journal(tmp_path: Path, clips: list[str], workers: int) -> None:
    class Unfit(FakeSource):
        def check_weights(self) -> None:
            raise UsageError("the checkpoint does not fit its config.json")

    options = write_meta(tmp_path, clips)
    results = run_job(options, Unfit(), workers)
    assert all(isinstance(result, UsageError) for result in results), results
    assert not journal_folder(options.output).exists()
    first = _interrupt_after(1, FakeSource())
    run_job(options, first)
    unfit = Unfit(settings={"prompt": "b"})
    assert all(isinstance(result, UsageError) for result in run_job(replace(options, restart=True), unfit, workers))
    second = FakeSource()
    assert run_job(options, second, workers) == [0] * workers
    assert sorted(first.rows_captioned + second.rows_captioned) == list(range(7)), "the journals were kept"


def _die_with(folder: Path, rows: Sequence[int], options: JobOptions, clips: list[str]) -> None:
    """Leave a journal as after the death of a worker with `rows` in flight."""
    run_job(options, _interrupt_after(0, FakeSource()))
    fingerprint = json.loads((folder / "rank-00000.jsonl").read_text().splitlines()[0])["fingerprint"]
    Journal(folder, 0, fingerprint).start(rows)


def test_a_row_in_flight_at_two_deaths_is_quarantined(tmp_path: Path, clips: list[str]) -> None:
    options = write_meta(tmp_path, clips)
    folder = journal_folder(options.output)
    _die_with(folder, [2, 3], options, clips)
    batches: list[list[int]] = []
    source = FakeSource()
    source.on_batch = lambda batch: batches.append([clip.row for clip in batch])
    Journal(folder, 0, {**_fingerprint(folder)}).start([3])
    assert run_job(options, source) == [0]
    assert batches == [[0, 1], [4, 5], [6], [2]]
    assert [row["row"] for row in read_rows(tmp_path / "out_failures.csv")] == ["3"]


def _fingerprint(folder: Path) -> dict[str, str]:
    return json.loads((folder / "rank-00000.jsonl").read_text().splitlines()[0])["fingerprint"]


def test_mass_failure_stops_the_run_and_its_rows_are_captioned_by_the_next(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished_rows, "FAILURE_WINDOW", 4)
    paths = [clips[0], *(str(tmp_path / f"gone {i}.mp4") for i in range(20))]
    options = write_meta(tmp_path, paths)
    result = run_job(options, FakeSource())[0]
    assert isinstance(result, RunError) and "check that the disks of the clips are mounted" in str(result)
    assert not options.output.exists()
    for i in range(20):
        (tmp_path / f"gone {i}.mp4").symlink_to(clips[1 + i % 6])
    source = FakeSource()
    assert run_job(options, source) == [0]
    assert sorted(source.rows_captioned) == list(range(0 if 0 in source.rows_captioned else 1, 21))


def test_after_a_device_failure_the_next_run_captions_the_failed_rows(tmp_path: Path, clips: list[str]) -> None:
    def on_batch(batch: Sequence[Clip]) -> None:
        if any(clip.row >= 2 for clip in batch):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    options = write_meta(tmp_path, clips * 3)
    result = run_job(options, FakeSource(on_batch=on_batch))[0]
    assert isinstance(result, RunError) and "the device or the framework is at fault" in str(result)
    assert not options.output.exists()
    source = FakeSource()
    assert run_job(options, source) == [0]
    assert sorted(source.rows_captioned) == list(range(2, 21))


def test_rows_in_flight_at_one_death_are_captioned_last_and_alone(tmp_path: Path, clips: list[str]) -> None:
    """When one worker dies, msrun kills the others: the rows in flight there are not the cause."""
    options = write_meta(tmp_path, clips)
    folder = journal_folder(options.output)
    run_job(options, _interrupt_after(0, FakeSource()))
    fingerprint = _fingerprint(folder)
    for rank, row in enumerate((0, 3, 5)):
        Journal(folder, rank, fingerprint).start([row])
    batches: list[list[int]] = []
    source = FakeSource()
    source.on_batch = lambda batch: batches.append([clip.row for clip in batch])
    assert run_job(options, source, 3) == [0, 0, 0]
    # All on one rank, one at a time, after all other rows.
    assert batches[-3:] == [[0], [3], [5]]
    assert all(row["text"] for row in read_rows(options.output))


def test_many_rows_in_flight_are_retried_in_small_batches(
    tmp_path: Path, clips: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MAX_ISOLATED", 3)
    options = replace(write_meta(tmp_path, clips), batch_size=16)
    folder = journal_folder(options.output)
    run_job(options, _interrupt_after(0, FakeSource()))
    Journal(folder, 0, _fingerprint(folder)).start([0, 1, 2, 3])
    journal = Journal(folder, 1, _fingerprint(folder))
    journal.start([6])
    journal._file.close()  # its worker dies, and dies again while the row is retried
    Journal(folder, 1, _fingerprint(folder)).start([6], retry=True)
    batches: list[list[int]] = []
    source = FakeSource()
    source.on_batch = lambda batch: batches.append([clip.row for clip in batch])
    assert run_job(options, source) == [0]
    assert batches == [[4, 5], [0, 1], [2, 3], [6]]
    assert all(row["text"] for row in read_rows(options.output))


def test_an_error_in_a_batch_fails_only_its_own_clip(tmp_path: Path, clips: list[str]) -> None:
    def on_batch(batch: Sequence[Clip]) -> None:
        if any(clip.row == 3 for clip in batch):
            raise ValueError("kernel failed")

    options = replace(write_meta(tmp_path, clips), batch_size=5)
    assert run_job(options, FakeSource(on_batch=on_batch)) == [0]
    assert [row["message"] for row in read_rows(tmp_path / "out_failures.csv")] == ["ValueError: kernel failed"]


def test_out_of_memory_halves_the_batch(tmp_path: Path, clips: list[str]) -> None:
    def on_batch(batch: Sequence[Clip]) -> None:
        if len(batch) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    options = replace(write_meta(tmp_path, clips), batch_size=7)
    small = replace(options, output=tmp_path / "small.csv", batch_size=1)
    assert run_job(options, FakeSource(on_batch=on_batch)) == [0]
    assert run_job(small, FakeSource()) == [0]
    assert options.output.read_bytes() == small.output.read_bytes()


def test_limit_captions_the_first_rows(tmp_path: Path, clips: list[str]) -> None:
    options = replace(write_meta(tmp_path, clips), limit=3)
    assert run_job(options, FakeSource(), 2) == [0, 0]
    assert [bool(row["text"]) for row in read_rows(options.output)] == [True] * 3 + [False] * 4


def test_a_caption_too_long_to_gather_is_a_failure(tmp_path: Path, clips: list[str]) -> None:
    options = replace(write_meta(tmp_path, clips[:2]), pad_length=64)
    folder = journal_folder(options.output)
    run_job(options, _interrupt_after(0, FakeSource()))
    with Journal(folder, 0, _fingerprint(folder)) as journal:
        journal.finish([RowResult(0, {"text": CaptionResult("x" * 1000, 9)})])
    assert run_job(options, FakeSource()) == [0]
    assert "more than --pad_length 64" in read_rows(tmp_path / "out_failures.csv")[0]["message"]


def test_a_refused_run_leaves_no_journal_folder(tmp_path: Path, clips: list[str]) -> None:
    """A later `progress` would take the folder for a run that has just begun."""
    options = write_meta(tmp_path, clips[:2])
    asks = Asks((Ask("text", Question("What?"), "--prompt image-3ex", "image-3ex", "image"),))
    (error,) = run_job(options, FakeSource(asks=asks))
    assert isinstance(error, UsageError) and "--any_media" in str(error)
    assert not journal_folder(options.output).exists()
