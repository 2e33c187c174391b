"""Reads journals: results, and what the next plan needs (finished rows, rows in flight when a worker died)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .lines import FORGET_FAILURES, ROW, damaged, read_records, reading

Fingerprint = Mapping[str, str]


@dataclass
class JournalContents:
    """The contents of one or more journals that a plan needs.

    fingerprints: the distinct fingerprints found.
    finished: rows with a result that counts; a failure that is to be forgotten does not.
    deaths: for rows without such a result, how many times a worker died with the row in flight, retries not counted.
    retried: rows without such a result that were in flight when a worker died during their retry in a small batch.
    """

    fingerprints: list[Fingerprint] = field(default_factory=list)
    finished: set[int] = field(default_factory=set)
    deaths: Counter[int] = field(default_factory=Counter)
    retried: set[int] = field(default_factory=set)


def contents_of(paths: list[Path]) -> JournalContents:
    """Read journals into one object.

    Raises:
        RunError: a journal can't be read, or a line is damaged.
    """
    contents = JournalContents()
    for path in paths:
        _add_journal(path, contents)
    for row in contents.finished:
        contents.deaths.pop(row, None)
    contents.retried -= contents.finished
    return contents


def _add_journal(path: Path, contents: JournalContents) -> None:
    in_flight: set[int] = set()
    in_retry: set[int] = set()
    failed: set[int] = set()
    for number, record in read_records(path):
        if not _is_complete(record):
            raise damaged(path, number, "a part of the record is missing")
        if "fingerprint" in record:
            if record["fingerprint"] not in contents.fingerprints:
                contents.fingerprints.append(record["fingerprint"])
        elif "session" in record:
            contents.deaths.update(in_flight)
            contents.retried |= in_retry
            in_flight, in_retry = set(), set()
        elif "start" in record:
            (in_retry if record.get("retry") else in_flight).update(record["start"])
        elif "row" in record:
            in_flight.discard(record["row"])
            in_retry.discard(record["row"])
            (contents.finished if "caption" in record else failed).add(record["row"])
        elif "released" in record:
            in_flight, in_retry = set(), set()
        elif "forget_failures" in record:
            failed = set()
    contents.deaths.update(in_flight)
    contents.retried |= in_retry
    contents.finished |= failed


def _is_complete(record: dict) -> bool:
    """Whether a record has everything that later steps need, so that damage is reported at the start of a run."""
    if "row" in record:
        if "stage" in record:
            return _is_row(record["row"]) and isinstance(record.get("messages"), list)
        is_caption = isinstance(record.get("caption"), str) and isinstance(record.get("tokens"), int)
        return _is_row(record["row"]) and is_caption
    if "start" in record:
        return isinstance(record["start"], list) and all(map(_is_row, record["start"]))
    if "fingerprint" in record:
        return isinstance(record["fingerprint"], dict)
    return True


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
            if line.startswith(ROW) and (number > forgotten or _has_caption(path, number, line)):
                yield line[:-1]


def _has_caption(path: Path, number: int, line: bytes) -> bool:
    try:
        return "caption" in json.loads(line)
    except ValueError as error:
        raise damaged(path, number + 1, error) from error
