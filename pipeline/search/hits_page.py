"""Shows hits in the gallery: makes its entries from them. Knows nothing about queries."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.captioning.clips.killable import DecoderLimits
from pipeline.captioning.clips.loader import default_decode_workers
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.marks import MarkedCaptions
from pipeline.captioning.monitor.gallery.entries import Entries, Entry, entry_caption
from pipeline.captioning.monitor.gallery.pictured import DEFAULT_SAMPLING, write_pictured_page
from pipeline.captioning.monitor.gallery.videos import Video

from .hits import Hit
from .output import counted

_DECODE_TIMEOUT = 60.0
_COLUMNS = ("table", "row of the table", "column", "outcome", "score")


def write_hits_page(page: Path, query: str, hits: Sequence[Hit]) -> str:
    """Write the page with the frames of the hits; returns a line about it.

    Paths that are not absolute are those of the tables, so they are looked for from the current folder, as by the
    gallery of a table.

    Raises:
        RunError: the page can't be written.
    """
    shown = write_pictured_page(
        page, Path(_title(query)), entries_of(hits), {}, DEFAULT_SAMPLING, DecoderLimits(_DECODE_TIMEOUT),
        default_decode_workers(host_workers=1),
    )  # fmt: skip
    clips, megabytes = counted(shown, "clip"), page.stat().st_size / 10**6
    return f"{page}: {counted(len(hits), 'hit')}, {clips} with frames, {megabytes:.1f} MB"


def entries_of(hits: Sequence[Hit]) -> Entries:
    """The entries of the gallery, numbered as the hits are."""
    captions = MarkedCaptions(
        [hit.text for hit in hits], {i: hit.outcome == "truncated" for i, hit in enumerate(hits) if hit.outcome}
    )
    entries = tuple(
        Entry(
            row=hit.rank,
            path=hit.path,
            captions=(entry_caption(captions, i),),
            cells=(_utf8(hit.table), str(hit.row), hit.column, hit.outcome, f"{hit.score:.3g}"),
            range=hit.range,
        )
        for i, hit in enumerate(hits)
    )
    return Entries(("caption",), _COLUMNS, entries, len(hits), (len(hits),), len(hits), _videos(hits), "hit")


def _videos(hits: Sequence[Hit]) -> tuple[Video, ...]:
    """The videos of hits that are segments. They are as long as these segments show."""
    segments: dict[str, set[TimeRange]] = {}  # several hits may be captions of the same one
    lengths: dict[str, int] = {}
    for hit in hits:
        if hit.range is not None:
            end = hit.range.start if hit.range.end is None else hit.range.end
            segments.setdefault(hit.path, set()).add(hit.range)
            lengths[hit.path] = max(lengths.get(hit.path, 0), end)
    return tuple(Video(path, len(ranges), lengths[path]) for path, ranges in segments.items())


def _title(query: str) -> str:
    return _utf8(f"hits for {query}").replace(os.sep, " ")


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
