"""Reading journals: records that no plan needs, old records, damaged records, journals that can't be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.captioning.journal.folder import (
    asks_to_forget_failures,
    forget_failures,
    journal_path,
    journals,
    read_contents,
    remove_journals,
)
from pipeline.captioning.journal.journal import Journal
from pipeline.captioning.journal.reader import read_result_lines
from pipeline.captioning.journal.run_journals import RunJournals
from pipeline.captioning.meta.results import CaptionResult, Failure, RowResult
from pipeline.captioning.process.errors import RunError
from pipeline.captioning.workers.world import solo_world


def _write(folder: Path, *lines: str) -> Path:
    path = journal_path(folder, 0)
    path.write_text("".join(line + "\n" for line in ('{"fingerprint": {"a": "b"}}', *lines)))
    return path


def test_leases_are_not_results_and_not_rows_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 0, {})
    journal.loaded()
    journal.lease([4, 5])
    journal.start([4])
    journal.finish([RowResult(4, {"text": CaptionResult("a caption", 3)})])
    journal.lease([6])
    journal.record_usage({"prompt_tokens": 5, "completion_tokens": 1})
    journal._file.close()  # as after a kill
    parsed: list[str] = []
    parse = json.loads
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(str(line)) or parse(line))
    contents = read_contents(tmp_path)
    assert (contents.finished, contents.deaths, contents.retried) == ({"text": {4}}, {}, set())
    assert [parse(line)["row"] for line in read_result_lines(journal.path)] == [4]
    assert parsed and not any(name in line for line in parsed for name in ("lease", "loaded", "usage"))


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        '{"session": "2026-11-20T09:00:00+00:00 host 7"}',
        '{"start": [1, 2]}',
        '{"row": 1, "caption": "a", "tokens": 3, "partial": true}',
        '{"row": 3, "stage": "decode", "messages": ["x", "y"]}',
        '{"unknown": 1}',
    )
    contents = read_contents(tmp_path)
    assert (contents.fingerprints, contents.finished, contents.deaths) == (
        [{"a": "b"}],
        {"text": {1, 3}},
        {2: 1},
    )
    assert [RowResult.from_json(line.decode()) for line in read_result_lines(path)] == [
        RowResult(1, {"text": CaptionResult("a", 3)}, partial=True),
        RowResult.failed(3, ["text"], "decode", ["x", "y"]),
    ]
    with Journal(tmp_path, 0, {}), pytest.raises(RunError, match="another run is writing"):
        Journal(tmp_path, 0, {})


def test_a_row_may_have_lines_with_different_columns(tmp_path: Path) -> None:
    """The first run keeps one column (--skip_if_existing), and is killed; the second wants both."""
    row = RowResult(4, {"a": CaptionResult("x", 1, truncated=True)}, is_image=True)
    others = RowResult(4, {"b": CaptionResult("y", 2, looping=True), "c": Failure("prompt", ("too long",))})
    with Journal(tmp_path, 0, {}) as journal:
        journal.finish([row])
    with Journal(tmp_path, 1, {}) as journal:
        journal.finish([others])
    assert read_contents(tmp_path).finished == {"a": {4}, "b": {4}, "c": {4}}
    (line,) = read_result_lines(journal.path)
    assert RowResult.from_json(line.decode()) == others
    assert json.loads(line)["captions"]["b"] == {"caption": "y", "tokens": 2, "looping": True}


def _killed(folder: Path, rank: int, run: str, start: list[int], finish: list[RowResult]) -> None:
    """A session of a run that ends with a kill."""
    journal = Journal(folder, rank, {}, run)
    journal.start(start)
    journal.finish(finish)
    journal._file.close()


def test_a_caption_of_a_later_run_shows_that_a_row_was_not_the_cause_of_a_death(tmp_path: Path) -> None:
    """Rank 1 dies with rows 3 to 6 in flight; they are captioned alone on rank 0, by the next run."""
    x = {"a": CaptionResult("x", 1)}
    _killed(tmp_path, 1, "2026-11-20T09:00:00.000+00:00", [3, 4, 5, 6], [])
    earlier = [RowResult(4, x), RowResult.failed(5, ["a"], "caption", ["x"])]
    _killed(tmp_path, 0, "2026-11-20T10:00:00.000+00:00", [4, 5, 6], earlier)
    assert read_contents(tmp_path).deaths == {3: 1, 5: 1, 6: 2}, "a failure shows nothing"
    _killed(tmp_path, 2, "2026-11-21T09:00:00.000+00:00", [3], [RowResult(3, {"b": CaptionResult("x", 1)})])
    _killed(tmp_path, 2, "2026-11-21T10:00:00.000+00:00", [4], [])
    contents = read_contents(tmp_path)
    assert contents.deaths == {4: 1, 5: 1, 6: 2}, "row 4 has a caption from before its last death"
    assert contents.finished == {"a": {4, 5}, "b": {3}} and contents.captions == {"a": {4}, "b": {3}}
    with RunJournals(solo_world(), tmp_path / "out.csv") as gathered:
        gathered.folder = tmp_path
        assert gathered.contents(restart=False) == contents


def test_forgotten_failures_leave_the_captions_of_the_row(tmp_path: Path) -> None:
    both = RowResult(1, {"a": CaptionResult("é", 3), "b": Failure("caption", ("x",))}, partial=True)
    with Journal(tmp_path, 0, {}) as journal:
        journal.finish([both, RowResult.failed(2, ["a", "b"], "path", ["y"])])
    forget_failures(tmp_path)
    assert read_contents(tmp_path).finished == {"a": {1}}
    (line,) = read_result_lines(journal.path)
    assert RowResult.from_json(line.decode()) == RowResult(1, {"a": CaptionResult("é", 3)}, partial=True)
    with Journal(tmp_path, 0, {}) as journal:
        journal.finish([RowResult.failed(1, ["b"], "caption", ["x"])])
    assert read_contents(tmp_path).finished == {"a": {1}, "b": {1}}


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "[]",
        "null",
        "\0\0\0",
        '{"row": 3}',
        '{"row": "3", "caption": "a", "tokens": 1}',
        '{"row": 3, "caption": null, "tokens": 1}',
        '{"row": 3, "caption": "a"}',
        '{"row": 3, "stage": "decode"}',
        '{"row": 3, "captions": {}}',
        '{"row": 3, "captions": ["a"]}',
        '{"row": 3, "captions": {"a": {"caption": "x"}}}',
        '{"row": 3, "captions": {"a": {"caption": "x", "tokens": 1}, "b": "y"}}',
        '{"row": 3, "captions": {"a": {"stage": 1, "messages": []}}}',
        '{"start": 3}',
        '{"start": ["3"]}',
        '{"fingerprint": "x"}',
        '{"row": 3, "capti',
    ],
)
def test_a_damaged_record_is_reported_with_its_line(tmp_path: Path, line: str) -> None:
    path = _write(tmp_path, line)
    with pytest.raises(RunError, match=rf"journal {path}, line 2 is damaged .*; remove that line, or give --restart"):
        read_contents(tmp_path)


def test_a_damaged_result_before_forgotten_failures_is_reported(tmp_path: Path) -> None:
    for line in ('{"row": 3, "capti', '{"row": 3, "captions": 5}', '{"row": 3, "captions": {"a": 5}}'):
        path = _write(tmp_path, line, '{"forget_failures": true}')
        with pytest.raises(RunError, match="line 2 is damaged"):
            list(read_result_lines(path))


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to(path)])
def test_a_journal_that_can_not_be_read_or_written_is_reported(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = journal_path(tmp_path, 0)
    make(path)
    for use in (
        lambda: read_contents(tmp_path),
        lambda: list(read_result_lines(path)),
        lambda: asks_to_forget_failures(tmp_path),
        lambda: forget_failures(tmp_path),
        lambda: remove_journals(tmp_path),
        lambda: Journal(tmp_path, 0, {}),
    ):
        with pytest.raises(RunError, match=str(path)):
            use()


def test_only_files_named_after_ranks_are_journals(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "rank-notes.jsonl").write_text("my own notes\n")
    assert journals(tmp_path) == [journal_path(tmp_path, 0)]
    assert read_contents(tmp_path).fingerprints == [{"a": "b"}]
