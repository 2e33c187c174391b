"""What FFmpeg reads from files of cues and chapters: a parser that is not ours."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import av


def subtitles(path: Path) -> list[tuple[int, int, str]]:
    """Start and end in milliseconds and the text of each cue of a WebVTT or SRT file.

    Every cue is also decoded, which fails where its text is not what FFmpeg's decoder expects.
    """
    cues = []
    with av.open(str(path)) as file:
        stream = file.streams.subtitles[0]
        unit = int(1000 * stream.time_base)
        for packet in file.demux(stream):
            if packet.size:
                text = bytes(packet).decode()
                cues.append((packet.pts * unit, (packet.pts + packet.duration) * unit, text))
                assert packet.decode(), text
    is_vtt = path.suffix == ".vtt"
    return [(start, end, html.unescape(text) if is_vtt else text) for start, end, text in cues]


def chapters(path: Path) -> tuple[dict[str, str], list[tuple[int, int, str]]]:
    """The metadata of the file, and start and end in milliseconds and the title of each chapter."""
    with av.open(str(path)) as file:
        found: list[Any] = file.chapters()
        return dict(file.metadata), [
            (
                int(chapter["start"] * chapter["time_base"] * 1000),
                int(chapter["end"] * chapter["time_base"] * 1000),
                chapter["metadata"]["title"],
            )
            for chapter in found
        ]
