"""The videos of a table whose rows are parts of files: their lengths, and their titles and summaries.

Knows nothing about captions, pictures and HTML.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ...meta.names import column_list
from ...meta.table import MetaTable
from ...process.errors import UsageError

logger = logging.getLogger(__name__)

_SUMMARY, _TITLE = "summary", "title"


@dataclass(frozen=True)
class Video:
    """A file of which rows of the table are segments.

    segments: number of these rows in the whole table.
    length: in milliseconds: the latest end of its segments, or the latest start if a segment without an end is later.
    title, summary: empty if there is none.
    """

    path: str
    segments: int
    length: int
    title: str = ""
    summary: str = ""


def read_videos(table: MetaTable, shown: Collection[str], summaries: Path | None, usual_summaries: Path) -> list[Video]:
    """The videos that the page shows, in order of their first row.

    shown: the paths of these videos.
    summaries: the table that the user has named, with the columns `path`, and `summary` or `title` or both.
    usual_summaries: the table to use if the user has named none. If it does not exist or can't be used, no video has a
        summary.

    Raises:
        UsageError: the summaries can't be read, have none of these columns, or no row of the table is a segment.
    """
    if summaries is not None and not table.ranges:
        raise UsageError(
            f"--summaries {summaries}: no row of the captioned table is a segment of a video; give a table with the "
            "columns start and end"
        )
    texts = _read_usual_summaries(table, usual_summaries) if summaries is None else _read_summaries(summaries)
    segments: dict[str, int] = {}
    lengths: dict[str, int] = {}
    for path, part in zip(table.paths, table.ranges, strict=False):
        if part is not None and path in shown:
            segments[path] = segments.get(path, 0) + 1
            lengths[path] = max(lengths.get(path, 0), part.start if part.end is None else part.end)
    if texts and not texts.keys() & segments.keys():
        logger.warning(
            "%s has no summary of a video of the page; are its paths those of the table?", summaries or usual_summaries
        )
    return [Video(path, count, lengths[path], *texts.get(path, ())) for path, count in segments.items()]


def _read_usual_summaries(table: MetaTable, path: Path) -> dict[str, tuple[str, str]]:
    """The titles and summaries of a file that the user has not named; none if it can't be used."""
    if not table.ranges or not path.is_file():
        return {}
    try:
        return _read_summaries(path)
    except UsageError as error:
        logger.warning("the page has no summaries: %s; name their table with --summaries", error)
        return {}


def _read_summaries(path: Path) -> dict[str, tuple[str, str]]:
    """Title and summary of each video that has one of them. If a video has several rows, the first one counts."""
    table = MetaTable.read(path, captions=(), whole_files=True)
    columns = [table.texts(name) for name in (_TITLE, _SUMMARY)]
    if columns == [None, None]:
        raise UsageError(
            f"table {path} has no column '{_SUMMARY}' or '{_TITLE}'; its columns: {column_list(table.columns)}"
        )
    titles, summaries = (column or [""] * len(table.paths) for column in columns)
    texts: dict[str, tuple[str, str]] = {}
    for video, title, summary in zip(table.paths, titles, summaries, strict=True):
        if title.strip() or summary.strip():
            texts.setdefault(video, (title.strip(), summary.strip()))
    return texts
