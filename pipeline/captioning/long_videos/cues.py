"""Writes the description of a video in the formats that programs and players read. Opens no file.

WebVTT: https://www.w3.org/TR/webvtt1. Chapters are in FFmpeg's metadata format
(https://ffmpeg.org/ffmpeg-formats.html#Metadata-2). SRT has no specification; what FFmpeg reads is decisive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ..meta.results import as_json
from .cue_text import chapter_title, ffmetadata_escaped, one_line, plain_lines, srt_lines, vtt_escaped
from .document import Segment, VideoDescription

_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Cue:
    """A caption that is shown from `start_ms` on and before `end_ms`, in milliseconds.

    number: of the segment.
    lines: of the caption, as `plain_lines` gives them; at least one.
    """

    number: int
    start_ms: int
    end_ms: int
    lines: list[str]


def cues_of(segments: Iterable[Segment]) -> list[Cue]:
    """The captions of segments as cues, in order of time.

    A segment without a caption gives none. Cues do not overlap: each one ends where the next one starts at the latest.
    Of segments that start together only the longest gives a cue, and segments without length give none.
    """
    cues: list[Cue] = []
    for segment in sorted(segments, key=lambda segment: (segment.start_ms, -segment.end_ms)):
        lines = plain_lines(segment.description)
        start = max(0, segment.start_ms)
        if not lines or segment.end_ms <= start or (cues and cues[-1].start_ms == start):
            continue
        if cues and cues[-1].end_ms > start:
            cues[-1] = replace(cues[-1], end_ms=start)
        cues.append(Cue(segment.number, start, segment.end_ms, lines))
    return cues


def render(description: VideoDescription, format_name: str) -> str:
    """The description in one of FORMATS, as the content of a file in UTF-8."""
    return _RENDERERS[format_name](description)


def _json(description: VideoDescription) -> str:
    return _utf8(json.dumps(description.to_json(), ensure_ascii=False, indent=2)) + "\n"


def _json_lines(description: VideoDescription) -> str:
    """One line for each segment, whether it has a caption or not."""
    return "".join(
        _utf8(
            as_json(
                {
                    "path": description.path,
                    "start": segment.start_ms / 1000,
                    "end": segment.end_ms / 1000,
                    "text": segment.description,
                    "outcome": segment.outcome,
                }
            )
        )
        + "\n"
        for segment in description.segments
    )


def _utf8(text: str) -> str:
    """JSON that can be written in UTF-8: the path of a file may contain bytes that Python reads as surrogates."""
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _vtt(description: VideoDescription) -> str:
    blocks = ["WEBVTT"]
    for name, text in (("Title", description.title), ("Summary", description.summary)):
        if one_line(text):
            blocks.append(f"NOTE\n{name}: {vtt_escaped(one_line(text))}")
    for cue in cues_of(description.segments):
        text = vtt_escaped("\n".join(cue.lines))
        blocks.append(f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{text}")
    return "\n\n".join(blocks) + "\n"


def _srt(description: VideoDescription) -> str:
    blocks = []
    for number, cue in enumerate(cues_of(description.segments), 1):
        lines = "\n".join(srt_lines(cue.lines))
        blocks.append(f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{lines}\n")
    return "\n".join(blocks)


def _chapters(description: VideoDescription) -> str:
    lines = [";FFMETADATA1"]
    for name, text in (("title", description.title), ("description", description.summary)):
        if one_line(text):
            lines.append(f"{name}={ffmetadata_escaped(one_line(text))}")
    for cue in cues_of(description.segments):
        lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={cue.start_ms}", f"END={cue.end_ms}"]
        lines.append(f"title={ffmetadata_escaped(chapter_title(cue.lines[0]))}")
    return "\n".join(lines) + "\n"


def _clock(milliseconds: int, point: str) -> str:
    """A time as `00:01:02.345`. Hours have two digits or more."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"


_RENDERERS: Mapping[str, Callable[[VideoDescription], str]] = {
    "json": _json, "jsonl": _json_lines, "vtt": _vtt, "srt": _srt, "chapters": _chapters
}  # fmt: skip
FORMATS = tuple(_RENDERERS)
"""The names of the formats."""
SUFFIXES = {"json": ".json", "jsonl": ".jsonl", "vtt": ".vtt", "srt": ".srt", "chapters": ".ffmeta"}
"""The suffix of a file of each format."""
