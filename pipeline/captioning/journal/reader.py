"""Reads journals: results, and what the next plan needs (finished rows, rows in flight when a worker died)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..meta.names import TEXT_COLUMN
from ..meta.results import as_json
from .lines import FORGET_FAILURES, ROW, damaged, read_records, reading

Fingerprint = Mapping[str, str]


@dataclass
class JournalContents:
    """The contents of one or more journals that a plan needs.

    fingerprints: the distinct fingerprints found.
    captioned: for each run and column, the rows with a caption. A run is named by the time at which it was planned.
    failed: for each column, the rows with a failure that counts; one that is to be forgotten does not.
    died: for each run, how many times a worker died with a row in flight, retries not counted.
    retried: rows that were in flight when a worker died during their retry in a small batch. The row may have been
        finished since then.
    """

    fingerprints: list[Fingerprint] = field(default_factory=list)
    captioned: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    failed: dict[str, set[int]] = field(default_factory=dict)
    died: dict[str, Counter[int]] = field(default_factory=dict)
    retried: set[int] = field(default_factory=set)

    @property
    def captions(self) -> dict[str, set[int]]:
        """For each column, the rows with a caption."""
        found: dict[str, set[int]] = {}
        for columns in self.captioned.values():
            for column, rows in columns.items():
                found[column] = found[column] | rows if column in found else rows  # usually one run: no copy
        return found

    @property
    def finished(self) -> dict[str, set[int]]:
        """For each column, the rows with a caption, or with a failure that counts."""
        found = self.captions
        for column, rows in self.failed.items():
            found[column] = found.get(column, set()) | rows
        return found

    @property
    def deaths(self) -> Counter[int]:
        """How many times a worker died with the row in flight, retries not counted.

        If a later run made a caption of the row in any column, the row was not the cause of the deaths before that run.
        """
        counted: Counter[int] = Counter()
        for run, died in self.died.items():
            later = [rows for name, columns in self.captioned.items() if name > run for rows in columns.values()]
            counted.update({row: count for row, count in died.items() if not any(row in rows for rows in later)})
        return counted

    def add_captions(self, run: str, column: str, rows: Iterable[int]) -> None:
        """Add rows with a caption in a column."""
        self.captioned.setdefault(run, {}).setdefault(column, set()).update(rows)

    def add_failures(self, column: str, rows: Iterable[int]) -> None:
        """Add rows with a failure in a column."""
        self.failed.setdefault(column, set()).update(rows)

    def add_deaths(self, run: str, counts: Mapping[int, int]) -> None:
        """Add how many times a worker of a run died with a row in flight."""
        if counts:
            self.died.setdefault(run, Counter()).update(counts)


def contents_of(paths: list[Path]) -> JournalContents:
    """Read journals into one object.

    Raises:
        RunError: a journal can't be read, or a line is damaged.
    """
    contents = JournalContents()
    for path in paths:
        _add_journal(path, contents)
    return contents


def _add_journal(path: Path, contents: JournalContents) -> None:
    in_flight: set[int] = set()
    in_retry: set[int] = set()
    failed: list[tuple[str, int]] = []
    run = ""  # in journals of earlier versions, runs have no name
    for number, record in read_records(path):
        if not _is_complete(record):
            raise damaged(path, number, "a part of the record is missing")
        if "fingerprint" in record:
            if record["fingerprint"] not in contents.fingerprints:
                contents.fingerprints.append(record["fingerprint"])
        elif "session" in record:
            contents.add_deaths(run, Counter(in_flight))
            contents.retried |= in_retry
            in_flight, in_retry = set(), set()
            run = str(record.get("run", run))
        elif "start" in record:
            (in_retry if record.get("retry") else in_flight).update(record["start"])
        elif "row" in record:
            row = record["row"]
            in_flight.discard(row)
            in_retry.discard(row)
            for column, result in _results(record).items():
                if "caption" in result:
                    contents.add_captions(run, column, (row,))
                else:
                    failed.append((column, row))
        elif "released" in record:
            in_flight, in_retry = set(), set()
        elif "forget_failures" in record:
            failed = []
    contents.add_deaths(run, Counter(in_flight))
    contents.retried |= in_retry
    for column, row in failed:
        contents.add_failures(column, (row,))


def _results(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The captions and failures of a finished row, by column. Records of earlier versions have one, of `text`."""
    results: Mapping[str, Any] = record.get("captions", {TEXT_COLUMN: record})
    return results


def _is_complete(record: dict) -> bool:
    """Whether a record has everything that later steps need, so that damage is reported at the start of a run."""
    if "row" in record:
        results = _results(record)
        is_complete = isinstance(results, dict) and bool(results) and all(map(_is_result, results.values()))
        return _is_row(record["row"]) and is_complete
    if "start" in record:
        return isinstance(record["start"], list) and all(map(_is_row, record["start"]))
    if "fingerprint" in record:
        return isinstance(record["fingerprint"], dict)
    return True


def _is_result(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    if "stage" in value:
        return isinstance(value["stage"], str) and isinstance(value.get("messages"), list)
    return isinstance(value.get("caption"), str) and isinstance(value.get("tokens"), int)


def _is_row(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def read_result_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of one journal with results that count, without line ends. A row may have more than one.

    Raises:
        RunError: the journal can't be read, or a line that has to be parsed is damaged.
    """
    with reading(path), path.open("rb") as lines:
        forgotten = max((n for n, line in enumerate(lines) if line.startswith(FORGET_FAILURES)), default=-1)
        lines.seek(0)
        for number, line in enumerate(lines):
            if not line.endswith(b"\n"):
                return  # incomplete: the worker died while writing it
            if not line.startswith(ROW):
                continue
            counted = line[:-1] if number > forgotten else _without_failures(path, number, line)
            if counted:
                yield counted


def _without_failures(path: Path, number: int, line: bytes) -> bytes:
    """The line of a row with its captions only; empty if there is none."""
    try:
        record = json.loads(line)
        captions = {column: result for column, result in _results(record).items() if "caption" in result}
    except (ValueError, AttributeError, TypeError) as error:
        raise damaged(path, number + 1, error) from error
    if len(captions) == len(_results(record)):
        return line[:-1]
    return as_json(record | {"captions": captions}).encode("utf-8", "replace") if captions else b""
