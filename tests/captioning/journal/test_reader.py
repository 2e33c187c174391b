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
from pipeline.captioning.meta.results import RowResult
from pipeline.captioning.process.errors import RunError


def _write(folder: Path, *lines: str) -> Path:
    path = journal_path(folder, 0)
    path.write_text("".join(line + "\n" for line in ('{"fingerprint": {"a": "b"}}', *lines)))
    return path


def test_leases_are_not_results_and_not_rows_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 0, {})
    journal.loaded()
    journal.lease([4, 5])
    journal.start([4])
    journal.finish([RowResult(4, "a caption", tokens=3)])
    journal.lease([6])
    journal._file.close()  # as after a kill
    parsed: list[str] = []
    parse = json.loads
    monkeypatch.setattr(json, "loads", lambda line: parsed.append(str(line)) or parse(line))
    contents = read_contents(tmp_path)
    assert (contents.finished, contents.deaths, contents.retried) == ({4}, {}, set())
    assert [parse(line)["row"] for line in read_result_lines(journal.path)] == [4]
    assert parsed and not any("lease" in line or "loaded" in line for line in parsed)


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        '{"session": "2026-11-20T09:00:00+00:00 host 7"}',
        '{"start": [1, 2]}',
        '{"row": 1, "caption": "a", "tokens": 3}',
        '{"unknown": 1}',
    )
    contents = read_contents(tmp_path)
    assert (contents.fingerprints, contents.finished, contents.deaths) == ([{"a": "b"}], {1}, {2: 1})
    assert len(list(read_result_lines(path))) == 1
    with Journal(tmp_path, 0, {}), pytest.raises(RunError, match="another run is writing"):
        Journal(tmp_path, 0, {})


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
    path = _write(tmp_path, '{"row": 3, "capti', '{"forget_failures": true}')
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
