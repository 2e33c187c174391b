"""Divides the videos that have to be divided, and records the result after each block of them. On rank 0 only.

Knows nothing about tables and runs.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ...clips.time_range import TimeRange, seconds_text
from ...long_videos.segmentation.division import EqualParts, Scenes
from ...long_videos.segmentation.many import divide_many
from .records import VideoRecord, file_state

BLOCK_OF_SCENES, BLOCK = 64, 1024
"""Videos that are divided between two times of recording: by scenes, which decodes all frames, and in equal parts."""


def divide_blocks(
    wanted: Mapping[str, tuple[VideoRecord, Sequence[TimeRange]]],
    rule: EqualParts | Scenes,
    workers: int,
    timeout: float,
) -> Iterator[dict[str, VideoRecord]]:
    """The new records of the videos, in blocks.

    wanted: by path, the earlier record of a video and its parts. workers, timeout: as for `divide_many`.

    Raises:
        RunError: no process can be started.
    """
    videos = iter(wanted.items())
    while block := dict(itertools.islice(videos, BLOCK_OF_SCENES if isinstance(rule, Scenes) else BLOCK)):
        states = {path: file_state(path) for path in block}  # before it is read: a later change is then noticed
        asked = [(path, part) for path, (_, parts) in block.items() for part in parts]
        divided, damaged = divide_many([path for path, _ in asked], [part for _, part in asked], rule, workers, timeout)
        segments: dict[str, set[TimeRange]] = defaultdict(set)
        problems: dict[str, list[str]] = defaultdict(list)
        for (path, _), found in zip(asked, divided, strict=True):
            if isinstance(found, str):
                problems[path].append(found)
            else:
                segments[path].update(found)
        yield {
            path: _recorded(
                replace(record, parts=tuple(parts), file=states[path]), segments[path], problems[path], path in damaged
            )
            for path, (record, parts) in block.items()
        }


def _recorded(record: VideoRecord, segments: set[TimeRange], problems: Sequence[str], is_damaged: bool) -> VideoRecord:
    ordered = tuple(sorted(segments, key=lambda part: (part.start, part.end or 0)))
    messages = dict.fromkeys(problems)  # a file that can't be read has the same problem in all its parts
    if is_damaged and ordered:
        end = max(part.end or 0 for part in ordered)
        messages[f"the file is cut off or damaged, and is divided up to {seconds_text(end)} s"] = None
    return replace(record, segments=ordered, messages=tuple(messages))
