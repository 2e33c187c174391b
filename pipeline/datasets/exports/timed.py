"""Export to subtitles and chapters: one file for each video, with the captions of its rows at their times.

Two passes over the table. The first counts the rows of each video and writes nothing: it finds files that exist
already, and files that two videos would write. The second writes the file of a video when it has read its last row. So
the rows of a video may be anywhere in the table; those of videos whose last row is still to come are in memory.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.long_videos.cues import cues_of, render
from pipeline.captioning.long_videos.document import CAPTIONED, Segment, VideoDescription
from pipeline.captioning.process.errors import RunError, UsageError

from .failures import FailedRows
from .rows import CaptionedTable, Row
from .sidecars import NoNameError, SidecarNames
from .small_files import MAX_EXAMPLES, conflicting, hash_of, identity_of, write_file


@dataclass(frozen=True, slots=True)
class _TimedRow:
    """A row with its part of the video, in milliseconds."""

    row: Row
    start: int
    end: int

    def segment(self, column: int) -> Segment:
        """The row and its caption in a column as a part of its video."""
        return Segment(self.row.number, self.start, self.end, description=self.row.captions[column], outcome=CAPTIONED)


class RowCounts:
    """How many rows each video has. Memory: at most 16 bytes for each video."""

    def __init__(self, paths: array[int]) -> None:
        """paths: the hash of the path of each row."""
        self._paths, self._counts = np.unique(np.frombuffer(paths, np.uint64), return_counts=True)

    def of(self, path: str) -> int:
        """The number of rows of the video at `path`; 0 for an unknown video."""
        key = np.uint64(hash_of(path))
        place = int(np.searchsorted(self._paths, key))
        return int(self._counts[place]) if place < len(self._paths) and self._paths[place] == key else 0


def check_timed(table: CaptionedTable, names: SidecarNames, overwrite: bool) -> RowCounts:
    """The first pass: check that no file is lost. Returns the numbers of rows, for the second pass.

    Memory: 8 bytes for each row, and 16 for each file.

    Raises:
        UsageError: the table can't be read, or no row is a part of a file; two videos have the same file; or, unless
            `overwrite`, a file exists.
        RunError: no row has a caption.
    """
    paths, files, videos = array("Q"), array("Q"), array("Q")
    existing: list[str] = []
    last_path = None
    for timed, row_files in _timed_rows(table, names):
        path = hash_of(timed.row.path)
        paths.append(path)
        if timed.row.path == last_path:
            continue
        last_path = timed.row.path
        for file in row_files:
            files.append(hash_of(identity_of(file)))
            videos.append(path)
            if not overwrite and os.path.lexists(file) and file not in existing:
                existing = [*existing, file][:MAX_EXAMPLES]
    conflicts = conflicting(np.frombuffer(files, np.uint64), np.frombuffer(videos, np.uint64))
    if conflicts:
        raise UsageError(_conflict_message(table, names, conflicts))
    if existing:
        raise UsageError(
            f"files of this export exist already, for example {', '.join(map(repr, existing))}; remove them, or allow "
            "it to replace them with --overwrite"
        )
    return RowCounts(paths)


def write_timed(
    table: CaptionedTable, names: SidecarNames, counts: RowCounts, format_name: str, failed: FailedRows
) -> int:
    """The second pass: write the files; returns the number of files. Each one is whole or does not exist.

    counts: of `check_timed`.
    format_name: one of `cues.FORMATS`.

    Raises:
        RunError: the disk is full, or no row can be exported.
    """
    waiting: dict[str, list[_TimedRow]] = {}
    written = 0
    for timed, files in _timed_rows(table, names, failed):
        rows = waiting.setdefault(timed.row.path, [])
        rows.append(timed)
        if len(rows) == counts.of(timed.row.path):
            written += _write_video(waiting.pop(timed.row.path), files, format_name, names.folder is not None, failed)
    for path, rows in waiting.items():  # the table has lost rows since the first pass
        written += _write_video(rows, names.of(path), format_name, names.folder is not None, failed)
    table.check_exported(written, failed.summary)
    return written


def _write_video(
    rows: Sequence[_TimedRow], files: Sequence[str], format_name: str, make_folder: bool, failed: FailedRows
) -> int:
    """Write the file of each column of captions; returns the number of files. Rows that are in none fail once."""
    written, problems = 0, dict[int, str]()
    for column, file in enumerate(files):
        captioned = [timed for timed in rows if timed.row.captions[column].strip()]
        segments = tuple([timed.segment(column) for timed in captioned])
        shown = {cue.number for cue in cues_of(segments)}
        for timed in captioned:
            if timed.row.number not in shown:
                problems[timed.row.number] = (
                    f"its caption is not in {file}: a longer row of the video starts at the same time, or the caption "
                    "has no characters that can be shown"
                )
        if not shown:
            continue
        try:
            write_file(file, render(VideoDescription(rows[0].row.path, segments=segments), format_name), make_folder)
            written += 1
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RunError(f"can't write {file}: {error.strerror}; free space, then --overwrite") from error
            problems |= {timed.row.number: f"can't write {file}: {error.strerror}" for timed in captioned}
    for timed in rows:
        if timed.row.number in problems:
            failed.add(timed.row, problems[timed.row.number])
    return written


def _timed_rows(
    table: CaptionedTable, names: SidecarNames, failed: FailedRows | None = None
) -> Iterator[tuple[_TimedRow, list[str]]]:
    """The captioned rows that have a time and a file, each with the files of its video, one for each column.

    failed: gets the other captioned rows.

    Raises:
        UsageError: the table can't be read, or no row is a part of a file.
        RunError: no row has a caption.
    """
    with_caption, with_range = 0, 0
    for row in table.captioned_rows():
        with_caption += 1
        part = row.range
        with_range += part is not None
        problem = _problem_of(part)
        try:
            files = names.of(row.path)
        except NoNameError as error:
            problem = str(error)
        if part is not None and part.end is not None and not problem:
            yield _TimedRow(row, part.start, part.end), files
        elif failed is not None:
            failed.add(row, problem)
    table.check_exported(with_caption)
    if not with_range:
        raise UsageError(
            f"table {table.path}: no row with a caption is a part of its file: the columns 'start' and 'end' (seconds) "
            "are missing or blank, or its run was started with --whole_files; make a table of parts by "
            "pipeline.datasets.segments, or use --to txt"
        )


def _problem_of(part: TimeRange | None) -> str:
    """Why a caption has no place in time; '' if it has."""
    if part is None:
        return "it has no start and no end, so there is no time for its caption"
    if part.problem:
        return part.problem
    return "its range has no end; write the end into the table" if part.end is None else ""


def _conflict_message(table: CaptionedTable, names: SidecarNames, conflicts: set[int]) -> str:
    videos: dict[int, dict[str, None]] = {}
    files: dict[int, str] = {}
    for timed, row_files in _timed_rows(table, names):
        for file in row_files:
            identity = hash_of(identity_of(file))
            if identity in conflicts:
                files[identity] = file
                videos.setdefault(identity, {})[timed.row.path] = None
    examples = "; ".join(
        f"{files[identity]!r} is the file of {', '.join(map(repr, list(paths)[:MAX_EXAMPLES]))}"
        for identity, paths in videos.items()
    )
    meanings = {
        "--keep_suffix": f"--keep_suffix (a.mp4{names.suffix})",
        "--root": "--root (folders of the videos below --output)",
    }
    flags = names.flags_apart([list(paths) for paths in videos.values()])
    advice = (
        f"use {' and '.join(map(meanings.__getitem__, flags))}"
        if flags
        else "no flag gives them different files: keep one of them in the table"
    )
    return f"different videos would be written to one file: {examples}; {advice}"
