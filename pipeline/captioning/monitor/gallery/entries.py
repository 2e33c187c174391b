"""Reads what the gallery shows about each row from the outputs of a run.

Knows nothing about pictures or HTML.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...meta.csv_cells import read_csv_cells
from ...meta.names import failures_path, outcomes_path, report_path
from ...meta.outcomes import read_outcomes
from ...meta.repetition import caption_words, is_looping
from ...meta.table import MetaTable
from ...process.errors import UsageError

logger = logging.getLogger(__name__)

MARKS = {
    "failed": "has no caption",
    "repeated": "other rows have the same caption",
    "looping": "its caption repeats a phrase several times in a row",
    "short": "its caption has few words",
    "unfinished": "its caption was cut off by --max_new_tokens; if that is unknown: it does not end like a sentence",
}
"""What may be wrong with a row, in the order in which the gallery shows it."""
_SENTENCE_END = re.compile(r"""[.!?…。！？।؟][\s"'”’»」』)\]]*$""")  # noqa: RUF001

_REPORT_KEYS = {
    "captioned_in_this_run", "seconds", "clips_per_second", "tokens_per_second", "truncated", "workers", "backends",
    "fingerprint", "options", "versions",
}  # fmt: skip
"""Keys of a report that the page needs."""

_MAX_CHARACTERS = {"caption": 4000, "message": 1000, "path": 5000}
_MAX_CELL_CHARACTERS = 1000
_MAX_CHARACTERS_OF_ALL_CELLS = 4_000_000


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    stage, message: the stage in which the row failed, and why; empty if it has a caption.
    marks: the keys of MARKS that apply.
    words: number of words of the caption.
    times: number of rows with the same caption, this row included; 0 if it has no caption.
    cells: cells of the other columns.
    """

    row: int
    path: str
    caption: str
    stage: str
    message: str
    marks: tuple[str, ...]
    words: int
    times: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Entries:
    """Rows of a captioned table: all rows, or a sample.

    columns: names of the columns in `Entry.cells`.
    captioned, failed: numbers of rows in the whole table.
    chosen: number of rows from which the sample is drawn: those with a requested mark, or all if none is requested.
    """

    columns: tuple[str, ...]
    entries: tuple[Entry, ...]
    captioned: int
    failed: int
    chosen: int


def read_entries(output: Path, only: Collection[str], sample: int, seed: int, short_words: int) -> Entries:
    """Read a captioned table, its failures and its outcomes.

    only: a row must have at least one of these marks; if empty, all rows are read.
    sample: maximum number of rows. If there are more, this many are drawn at random, in the order of the table.
    seed: seed of the sample.
    short_words: a caption with fewer words is short.

    Raises:
        UsageError: the table or its failures can't be read, or the table has no captions.
    """
    table = MetaTable.read(output)
    texts = table.texts()
    if texts is None:
        raise UsageError(
            f"{output} has no 'text' column; give the table that the captioning command wrote, <meta>_caption"
        )
    captions = [text.strip() for text in texts]
    failures = _read_failures(failures_path(output), table.paths)
    truncated = _read_truncated(outcomes_path(output), table.paths)
    times = Counter(caption for caption in captions if caption)

    def word_count(row: int) -> int:
        return len(caption_words(captions[row]))

    def applies(mark: str, row: int) -> bool:
        caption = captions[row]
        if not caption or mark == "failed":
            return not caption and mark == "failed"
        if mark == "repeated":
            return times[caption] > 1
        if mark == "looping":
            return is_looping(caption)
        if mark == "short":
            return word_count(row) < short_words
        return truncated[row] if row in truncated else not _SENTENCE_END.search(caption)

    rows: Sequence[int] = range(len(captions))
    if only:
        rows = [row for row in rows if any(applies(mark, row) for mark in only)]
    chosen = len(rows)
    if chosen > sample:
        rows = sorted(random.Random(seed).sample(rows, sample))
    columns = table.other_columns()
    max_length = max(40, min(_MAX_CELL_CHARACTERS, _MAX_CHARACTERS_OF_ALL_CELLS // max(1, len(rows) * len(columns))))
    entries = []
    for row, cells in zip(rows, table.other_cells(rows), strict=True):
        stage, message = failures.get(row, ("", ""))
        if captions[row]:
            stage = message = ""
        entries.append(
            Entry(
                row=row,
                path=_cut(table.paths[row], _MAX_CHARACTERS["path"]),
                caption=_cut(captions[row], _MAX_CHARACTERS["caption"]),
                stage=stage,
                message=_cut(message, _MAX_CHARACTERS["message"]),
                marks=tuple(mark for mark in MARKS if applies(mark, row)),
                words=word_count(row),
                times=times[captions[row]],
                cells=tuple(_cut(cell, max_length) for cell in cells),
            )
        )
    failed = sum(not caption for caption in captions)
    return Entries(tuple(columns), tuple(entries), len(captions) - failed, failed, chosen)


def _read_failures(path: Path, paths: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Stage and message of each failed row. Skips rows whose path in the table is now a different one."""
    if not path.is_file():
        return {}
    cells = read_csv_cells(path)
    positions = {name: position for position, name in enumerate(cells.iloc[0].tolist())}
    missing = {"row", "path", "stage", "message"} - positions.keys()
    if missing:
        raise UsageError(f"{path} has no column {', '.join(sorted(missing))}; is this the failures file of a run?")
    columns = [cells[positions[name]].tolist()[1:] for name in ("row", "path", "stage", "message")]
    failures = {
        int(row): (stage, message)
        for row, clip, stage, message in zip(*columns, strict=True)
        if row.isdigit() and int(row) < len(paths) and paths[int(row)] == clip
    }
    if len(failures) < len(cells) - 1:
        logger.warning(
            "%d rows of %s are ignored: the table has no such row, or another path in it",
            len(cells) - 1 - len(failures),
            path,
        )
    return failures


def _read_truncated(path: Path, paths: Sequence[str]) -> dict[int, bool]:
    """Whether the caption of a row was cut off. Skips rows that the run did not caption, and rows whose path in the
    table is now a different one."""
    truncated = {}
    try:
        for record in read_outcomes(path):
            row = record["row"]
            if "truncated" in record and 0 <= row < len(paths) and paths[row] == record["path"]:
                truncated[row] = record["truncated"] is True
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s can't be read: %s", path, error)
        return {}
    return truncated


def read_report(output: Path) -> Mapping[str, Any]:
    """The report of the run that wrote `output`; empty if there is no usable one."""
    path = report_path(output)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s can't be read: %s", path, error)
        return {}
    if not isinstance(report, dict) or not report.keys() >= _REPORT_KEYS:
        logger.warning("%s is ignored: it is not the report of a run, or comes from another version", path)
        return {}
    return report


def _cut(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else f"{text[:max_length]}… ({len(text):,} characters)"
