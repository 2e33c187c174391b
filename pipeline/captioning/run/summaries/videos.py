"""The table of videos, made of the table of their segments. Knows nothing about models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...long_videos.division import TimedText
from ...meta.made_table import MadeTable
from ...meta.names import PATH_COLUMN
from ...meta.table import MetaTable
from .settings import CAPTIONS

SEGMENTS, MISSING, DIGEST = "segments", "missing_segments", "captions_digest"
"""Columns of the table of videos: the number of segments, the times of those without a caption, and the digest of all
captions, by which a later run finds out whether they have changed."""


@dataclass
class _Video:
    texts: list[tuple[int, int, int | None, str]] = field(default_factory=list)
    """(start, row, end, caption) of each segment."""


def read_videos(path: Path, column: str, whole_files: bool) -> MadeTable:
    """The videos of a captioned table of segments, in order of their first rows.

    column: of the captions. A row without a range counts as a segment from the start to the end of its file.

    Raises:
        UsageError: as `MetaTable.read`; or there is no column of captions.
    """
    table = MetaTable.read(path, (), {column: "summaries are made of its captions (--column)"}, whole_files)
    (captions,) = table.cells([column])
    videos: dict[str, _Video] = {}
    for row, (clip, caption) in enumerate(zip(table.paths, captions, strict=True)):
        part = table.range_of(row)
        start, end = (0, None) if part is None else (part.start, part.end)
        videos.setdefault(clip, _Video()).texts.append((start, row, end, " ".join(caption.split())))
    for video in videos.values():
        video.texts.sort(key=lambda text: text[:2])
    texts = [[TimedText(start, end, text) for start, _, end, text in video.texts] for video in videos.values()]
    cells = [_to_cell(of_video) for of_video in texts]
    return MadeTable(
        {
            PATH_COLUMN: list(videos),
            SEGMENTS: [str(len(of_video)) for of_video in texts],
            MISSING: [_missing(of_video) for of_video in texts],
            DIGEST: [hashlib.sha256(cell.encode("utf-8", "replace")).hexdigest()[:16] for cell in cells],
        },
        {CAPTIONS: cells},
    )


def texts_of_cell(cell: str) -> list[TimedText]:
    """The captions in a cell of the column CAPTIONS."""
    return [TimedText(start, end, text) for start, end, text in json.loads(cell)]


def _to_cell(texts: Sequence[TimedText]) -> str:
    return json.dumps([[text.start, text.end, text.text] for text in texts if text.text], ensure_ascii=False)


def _missing(texts: Sequence[TimedText]) -> str:
    """The times of the segments without a caption, in seconds: `12.000-16.000 20.000-24.000`."""
    without = (text for text in texts if not text.text)
    return " ".join(
        f"{text.start / 1000:.3f}-{'' if text.end is None else f'{text.end / 1000:.3f}'}" for text in without
    )
