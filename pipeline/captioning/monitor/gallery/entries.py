"""What the gallery tells of each row, read from what a captioning run left. Knows neither pictures nor HTML."""

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
    "repeated": "its caption stands in other rows too",
    "looping": "says the same again and again",
    "short": "has few words",
    "unfinished": "was cut off by --max_new_tokens; where that is unknown: does not end as a sentence does",
}
"""What may be wrong with a row, in the order in which it is told."""
_ENDED = re.compile(r"""[.!?…。！？।؟][\s"'”’»」』)\]]*$""")  # noqa: RUF001

_REPORTED = {
    "captioned_in_this_run", "seconds", "clips_per_second", "tokens_per_second", "truncated", "workers", "backends",
    "fingerprint", "options", "versions",
}  # fmt: skip
"""What the page tells of a report."""

_MOST_CHARACTERS = {"caption": 4000, "message": 1000, "path": 5000}
_CELL_CHARACTERS = 1000
_ALL_CELLS_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Entry:
    """One row.

    stage, message: where it failed and why. words: of the caption. times: rows that have it. cells: other columns.
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
    """Rows of a captioned table, all of them or a sample.

    columns: names of `Entry.cells`. captioned, failed: rows of the whole table; chosen: those with a wanted mark.
    """

    columns: tuple[str, ...]
    entries: tuple[Entry, ...]
    captioned: int
    failed: int
    chosen: int


def read_entries(output: Path, only: Collection[str], sample: int, seed: int, short_words: int) -> Entries:
    """Read a captioned table, its failures and its outcomes.

    only: marks of which a row must have one; empty for all rows.
    sample: at most so many rows, drawn at random by `seed`, in the order of the table.
    short_words: a caption of fewer is short.

    Raises:
        UsageError: the table can't be read, or has no captions.
    """
    table = MetaTable.read(output)
    texts = table.texts()
    if texts is None:
        raise UsageError(f"{output} has no 'text' column; give the table that captioning wrote, <meta>_caption")
    captions = [text.strip() for text in texts]
    failures = _read_failures(failures_path(output), table.paths)
    truncated = _read_truncated(outcomes_path(output), table.paths)
    times = Counter(caption for caption in captions if caption)

    def words(row: int) -> int:
        return len(caption_words(captions[row]))

    def holds(mark: str, row: int) -> bool:
        caption = captions[row]
        if not caption or mark == "failed":
            return not caption and mark == "failed"
        if mark == "repeated":
            return times[caption] > 1
        if mark == "looping":
            return is_looping(caption)
        if mark == "short":
            return words(row) < short_words
        return truncated[row] if row in truncated else not _ENDED.search(caption)

    rows: Sequence[int] = range(len(captions))
    if only:
        rows = [row for row in rows if any(holds(mark, row) for mark in only)]
    chosen = len(rows)
    if chosen > sample:
        rows = sorted(random.Random(seed).sample(rows, sample))
    columns = table.other_columns()
    longest = max(40, min(_CELL_CHARACTERS, _ALL_CELLS_CHARACTERS // max(1, len(rows) * len(columns))))
    entries = []
    for row, cells in zip(rows, table.other_cells(rows), strict=True):
        stage, message = failures.get(row, ("", ""))
        if captions[row]:
            stage = message = ""
        entries.append(
            Entry(
                row=row,
                path=_cut(table.paths[row], _MOST_CHARACTERS["path"]),
                caption=_cut(captions[row], _MOST_CHARACTERS["caption"]),
                stage=stage,
                message=_cut(message, _MOST_CHARACTERS["message"]),
                marks=tuple(mark for mark in MARKS if holds(mark, row)),
                words=words(row),
                times=times[captions[row]],
                cells=tuple(_cut(cell, longest) for cell in cells),
            )
        )
    failed = sum(not caption for caption in captions)
    return Entries(tuple(columns), tuple(entries), len(captions) - failed, failed, chosen)


def _read_failures(path: Path, paths: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Stage and message of each failed row; nothing of a row whose path is another now."""
    if not path.is_file():
        return {}
    cells = read_csv_cells(path)
    places = {name: place for place, name in enumerate(cells.iloc[0].tolist())}
    missing = {"row", "path", "stage", "message"} - places.keys()
    if missing:
        raise UsageError(f"{path} has no column {', '.join(sorted(missing))}; is it the failures file of a run?")
    columns = [cells[places[name]].tolist()[1:] for name in ("row", "path", "stage", "message")]
    failures = {
        int(row): (stage, message)
        for row, clip, stage, message in zip(*columns, strict=True)
        if row.isdigit() and int(row) < len(paths) and paths[int(row)] == clip
    }
    if len(failures) < len(cells) - 1:
        logger.warning("%d rows of %s are not those of the table any more", len(cells) - 1 - len(failures), path)
    return failures


def _read_truncated(path: Path, paths: Sequence[str]) -> dict[int, bool]:
    """Whether the caption of a row was cut off; nothing of a row that the run did not caption, or whose path is
    another now."""
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
    """The report of the run that wrote `output`; empty where there is none."""
    path = report_path(output)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s can't be read: %s", path, error)
        return {}
    if not isinstance(report, dict) or not report.keys() >= _REPORTED:
        logger.warning("%s is not the report of a run, or that of another version", path)
        return {}
    return report


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)"
