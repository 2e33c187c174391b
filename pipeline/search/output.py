"""Prints hits as text or JSON, and any line. Knows nothing about the database."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from pipeline.captioning.clips.downloads.urls import without_credentials
from pipeline.captioning.clips.time_range import TimeRange

from .hits import Found, Hit
from .matching import Snippet, plain_line

_BOLD, _NORMAL = "\x1b[1m", "\x1b[0m"
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def clock_text(milliseconds: int) -> str:
    """A time as `h:mm:ss.mmm`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"


def range_text(part: TimeRange) -> str:
    """A part of a video as `0:00:04.000 to 0:00:06.000`."""
    return f"{clock_text(part.start)} to {'the end' if part.end is None else clock_text(part.end)}"


def emphasized(snippet: Snippet, is_terminal: bool) -> str:
    """The text; on a terminal, what matches is bold."""
    return snippet.marked(_BOLD, _NORMAL) if is_terminal else snippet.text


def text_lines(found: Found, offset: int, is_terminal: bool) -> Iterator[str]:
    """The hits for people: two lines for each, and a line with their number."""
    for hit in found.hits:
        times = f" {range_text(hit.range)}" if hit.range is not None else ""
        yield f"{hit.rank}. {plain_line(without_credentials(hit.path))}{times}"
        cut_off = ", cut off" if hit.outcome == "truncated" else ""
        source = f"{hit.column}, row {hit.row} of {plain_line(hit.table)}{cut_off}"
        yield f"   {emphasized(hit.snippet, is_terminal)}  [{source}]"
    yield summary(found, offset)


def summary(found: Found, offset: int) -> str:
    """How many captions match, and which are shown."""
    if not found.total:
        return f"no hits in {found.captions:,} captions"
    text = f"{found.total:,} {'hit' if found.total == 1 else 'hits'} in {found.captions:,} captions"
    if found.hits:
        text += f"; shown: {offset + 1:,} to {offset + len(found.hits):,}"
    else:
        text += f"; none after --offset {offset:,}"
    if found.ranked < found.total:
        text += (
            f"; only the first {found.ranked:,} hits, in the order in which they were indexed, were ranked: make the "
            "query narrower, or rank more by --max_ranked"
        )
    return text


def as_json(found: Found, query: str) -> dict[str, Any]:
    """The hits for programs; docs/search.md describes the fields."""
    return {
        "query": query,
        "captions": found.captions,
        "total": found.total,
        "ranked": found.ranked,
        "hits": [_hit_json(hit) for hit in found.hits],
    }


def _hit_json(hit: Hit) -> dict[str, Any]:
    start, end = (None, None) if hit.range is None else (hit.range.start, hit.range.end)
    return {
        "rank": hit.rank,
        "score": hit.score,
        "path": hit.path,
        "start": _seconds(start),
        "end": _seconds(end),
        "table": hit.table,
        "row": hit.row,
        "column": hit.column,
        "outcome": hit.outcome,
        "text": hit.text,
        "snippet": hit.snippet.text,
        "marks": hit.snippet.marks,
    }


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 row`, `2,000 rows`. many: the plural; if empty, `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def print_line(line: str, file: TextIO | None = None) -> None:
    """Print a line at once. What the stream can't encode, such as the name of a file that is not UTF-8, is replaced.

    file: stdout if not given.
    """
    stream = sys.stdout if file is None else file
    encoding = stream.encoding or "utf-8"
    text = _SURROGATE.sub("\ufffd", line).encode(encoding, "replace").decode(encoding)
    print(text, file=stream, flush=True)


def close_broken_stdout() -> None:
    """After a BrokenPipeError: whoever reads stdout, for example `head`, has enough. The rest is written nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at the end
