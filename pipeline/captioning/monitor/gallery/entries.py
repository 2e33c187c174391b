"""Reads what the gallery shows about each row from the outputs of a run.

Knows nothing about pictures or HTML.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...clips.time_range import TimeRange
from ...meta.marks import CAPTION_MARKS, MarkedCaptions, outcome_columns, read_truncated
from ...meta.names import TEXT_COLUMN, column_list, failures_path, outcomes_path, summary_output
from ...meta.table import MetaTable
from ...process.errors import UsageError
from .filmstrips import ClipKey
from .outputs import read_failures
from .videos import Video, read_videos

MARKS = {"failed": "has no caption", **CAPTION_MARKS}
"""What may be wrong with a caption of a row, in the order in which the gallery shows it."""

_MAX_CHARACTERS = {"caption": 4000, "message": 1000, "path": 5000, "title": 400, "summary": 8000}
_MAX_CELL_CHARACTERS = 1000
_MAX_CHARACTERS_OF_ALL_CELLS = 4_000_000


@dataclass(frozen=True)
class EntryCaption:
    """The caption of a row in one column.

    stage, message: the stage that failed, and why; empty if there is a caption.
    marks: the keys of MARKS that apply.
    words: number of words of the caption.
    times: number of rows with the same caption in this column, this row included; 0 if there is no caption.
    """

    text: str
    stage: str
    message: str
    marks: tuple[str, ...]
    words: int
    times: int


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    captions: one for each of `Entries.captions`.
    cells: cells of the other columns.
    range: the part of its file that the row is; None for the whole file.
    """

    row: int
    path: str
    captions: tuple[EntryCaption, ...]
    cells: tuple[str, ...]
    range: TimeRange | None = None

    @property
    def clip(self) -> ClipKey:
        """What the frames of the row depend on."""
        return self.path, self.range


@dataclass(frozen=True)
class Entries:
    """Rows of a captioned table: all rows, or a sample.

    captions: names of the columns of captions, at least one.
    columns: names of the columns in `Entry.cells`.
    rows: number of rows of the whole table.
    captioned: for each of `captions`, the number of rows of the whole table that have a caption.
    chosen: number of rows from which the sample is drawn: those with a requested mark, or all if none is requested.
    videos: the videos of which rows in `entries` are segments, in order of their first row in the table.
    unit: what the page calls an entry and its number.
    """

    captions: tuple[str, ...]
    columns: tuple[str, ...]
    entries: tuple[Entry, ...]
    rows: int
    captioned: tuple[int, ...]
    chosen: int
    videos: tuple[Video, ...] = ()
    unit: str = "row"


def read_entries(
    output: Path,
    only: Collection[str],
    sample: int,
    seed: int,
    short_words: int,
    captions: Sequence[str] = (),
    whole_files: bool = False,
    summaries: Path | None = None,
) -> Entries:
    """Read a captioned table, its failures and its outcomes.

    only: a caption of a row must have at least one of these marks; if empty, all rows are read.
    sample: maximum number of rows. If there are more, this many are drawn at random, in the order of the table.
    seed: seed of the sample.
    short_words: a caption with fewer words is short.
    captions: the columns of captions; if empty, those that the run wrote.
    whole_files: every row is a whole file; the columns `start` and `end` mean something else.
    summaries: a table with a summary and a title for each video; None for that next to the table, if there is one.

    Raises:
        UsageError: the table, its failures or the summaries can't be read, the table has no captions, or summaries are
            given but no row is a segment.
    """
    outcomes = outcomes_path(output)
    wanted = list(dict.fromkeys(captions)) or outcome_columns(outcomes) or [TEXT_COLUMN]
    table = MetaTable.read(output, wanted, whole_files=whole_files)
    names = _chosen_columns(output, table, wanted) if captions else _columns_of_run(output, table, wanted)
    truncated = read_truncated(outcomes, table.paths, table.ranges)
    columns = {
        name: MarkedCaptions(cells, truncated.get(name, {}), short_words)
        for name, cells in zip(names, table.cells(names), strict=True)
    }
    failures = read_failures(failures_path(output), table.paths, table.ranges)

    rows: Sequence[int] = range(len(table.paths))
    if only:
        rows = [row for row in rows if any(_has(marked, row, mark) for marked in columns.values() for mark in only)]
    chosen = len(rows)
    if chosen > sample:
        rows = sorted(random.Random(seed).sample(rows, sample))
    others = table.other_columns(names)
    max_length = max(40, min(_MAX_CELL_CHARACTERS, _MAX_CHARACTERS_OF_ALL_CELLS // max(1, len(rows) * len(others))))
    entries = [
        Entry(
            row=row,
            path=_cut(table.paths[row], _MAX_CHARACTERS["path"]),
            captions=tuple(
                entry_caption(marked, row, *_failure(name, marked, row, failures)) for name, marked in columns.items()
            ),
            cells=tuple(_cut(cell, max_length) for cell in cells),
            range=table.range_of(row),
        )
        for row, cells in zip(rows, table.other_cells(rows, names), strict=True)
    ]
    captioned = tuple(sum(map(bool, marked.texts)) for marked in columns.values())
    shown = {table.paths[row] for row in rows if table.range_of(row) is not None}
    videos = tuple(
        dataclasses.replace(
            video,
            path=_cut(video.path, _MAX_CHARACTERS["path"]),
            title=_cut(video.title, _MAX_CHARACTERS["title"]),
            summary=_cut(video.summary, _MAX_CHARACTERS["summary"]),
        )
        for video in read_videos(table, shown, summaries, summary_output(output))
    )
    return Entries(tuple(names), tuple(others), tuple(entries), len(table.paths), captioned, chosen, videos)


def _chosen_columns(output: Path, table: MetaTable, chosen: Sequence[str]) -> list[str]:
    """The columns of captions that the user has named; the table must have all of them."""
    missing = [name for name in chosen if name not in table.columns]
    if missing:
        raise UsageError(
            f"--column {missing[0]}: {output} has no such column; its columns: {column_list(table.columns)}"
        )
    return list(chosen)


def _columns_of_run(output: Path, table: MetaTable, written: Sequence[str]) -> list[str]:
    """The columns of captions that the run wrote. The table may lack some of them, but not all."""
    found = [name for name in written if name in table.columns]
    if not found and TEXT_COLUMN in table.columns:
        return [TEXT_COLUMN]
    if not found:
        raise UsageError(
            f"{output} has no '{TEXT_COLUMN}' column; give the table that the captioning command wrote, "
            "<meta>_caption, or name the columns of its captions with --column; its columns: "
            f"{column_list(table.columns)}"
        )
    return found


def _has(marked: MarkedCaptions, row: int, mark: str) -> bool:
    return marked.has(row, mark) if mark in CAPTION_MARKS else not marked.texts[row]


def _failure(
    name: str, marked: MarkedCaptions, row: int, failures: Mapping[tuple[str, int], tuple[str, str]]
) -> tuple[str, str]:
    """Stage and message of a row without a caption. One of an earlier run may be there, although a later one failed."""
    return ("", "") if marked.texts[row] else failures.get((name, row), ("", ""))


def entry_caption(marked: MarkedCaptions, row: int, stage: str = "", message: str = "") -> EntryCaption:
    """What the gallery shows about one of these captions. stage, message: empty if there is a caption."""
    text = marked.texts[row]
    return EntryCaption(
        text=_cut(text, _MAX_CHARACTERS["caption"]),
        stage=stage,
        message=_cut(message, _MAX_CHARACTERS["message"]),
        marks=tuple(mark for mark in MARKS if _has(marked, row, mark)),
        words=marked.words(row),
        times=marked.times(row),
    )


def _cut(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else f"{text[:max_length]}… ({len(text):,} characters)"
