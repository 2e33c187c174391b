"""The table of a run whose rows are videos: made of the captions of their segments, for a model and for a service."""

from __future__ import annotations

from pathlib import Path

from ...meta.made_table import MadeTable
from ...meta.table import MetaTable
from ..earlier_captions import Redo
from ..options import JobOptions
from ..rank_work import RankWork
from .settings import SUMMARY, TITLE
from .videos import DIGEST, read_videos


class VideoTableWork(RankWork):
    """The part of a work that reads the table.

    column: of the table of segments, with their captions.
    """

    column: str
    unit = "videos"
    _videos: MadeTable | None = None
    """On rank 0."""

    def read_table(self, options: JobOptions) -> MetaTable:
        self._videos = videos = read_videos(options.meta_path, self.column, options.whole_files)
        return videos

    def redo(self, options: JobOptions) -> Redo:
        """Summaries of captions that have changed are made again, besides those with a mark of `--redo`."""
        marked = super().redo(options)
        return marked if self._videos is None else ChangedVideos(self._videos, marked)


class ChangedVideos:
    """Finds the summaries that are to be made again: those with a mark of `--redo`, or of other captions than now.

    A title is made again with its summary. videos: the present table. marked: finds those with a mark.
    """

    def __init__(self, videos: MetaTable, marked: Redo) -> None:
        self._marked = marked
        self._digests = dict(zip(videos.paths, videos.texts(DIGEST) or (), strict=True))

    def __call__(self, table: MetaTable, path: Path, column: str) -> set[int]:
        """The rows of an earlier table; see `earlier_captions.Redo`."""
        digests = table.texts(DIGEST) or [""] * len(table.paths)
        pairs = enumerate(zip(table.paths, digests, strict=True))
        changed = {row for row, (video, digest) in pairs if self._digests.get(video) != digest}
        columns = (SUMMARY, TITLE) if column == TITLE else (column,)
        return changed.union(*(self._marked(table, path, name) for name in columns))
