"""What is known about each video of a folder of tables, kept over calls in one file, `videos.json`.

Knows nothing about tables and about how videos are divided.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...clips.time_range import TimeRange
from ...meta.files import atomic_write
from ...process.errors import UsageError


@dataclass(frozen=True)
class VideoRecord:
    """What is known about a video.

    stem: name of the files of its description, without their suffix; "" if `--output` names one file.
    parts: that were asked for when it was divided. segments: in order of time; none if it has not been divided.
    file: its size in bytes and its time of change in nanoseconds, before it was divided; None if unknown.
    messages: what is wrong with the file or with its parts.
    """

    stem: str
    parts: tuple[TimeRange, ...] = ()
    segments: tuple[TimeRange, ...] = ()
    file: tuple[int, int] | None = None
    messages: tuple[str, ...] = ()


def file_state(path: str) -> tuple[int, int] | None:
    """The size of a file in bytes and its time of change in nanoseconds; None if there is no such file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def read_records(path: Path) -> dict[str, VideoRecord]:
    """The records by the paths of the videos, in the order in which the videos were added; none without a file.

    Raises:
        UsageError: the file is damaged or can't be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(video): _from_json(record) for video, record in found.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} can't be read: {error!r}; remove it, and the videos are divided again and keep their captions"
        ) from error


def write_records(path: Path, records: Mapping[str, VideoRecord]) -> None:
    """Write the records, unless the file has them already.

    Raises:
        RunError: the file can't be written.
    """
    lines = ",\n".join(f"{json.dumps(video)}: {json.dumps(_to_json(record))}" for video, record in records.items())
    content = f"{{\n{lines}\n}}\n".encode()
    if not path.exists() or path.read_bytes() != content:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)


def _to_json(record: VideoRecord) -> dict[str, Any]:
    return {
        "stem": record.stem,
        "parts": [part.to_json() for part in record.parts],
        "segments": [segment.to_json() for segment in record.segments],
        "file": record.file,
        "messages": record.messages,
    }


def _from_json(record: Mapping[str, Any]) -> VideoRecord:
    file = record["file"]
    return VideoRecord(
        str(record["stem"]),
        tuple(map(TimeRange.from_json, record["parts"])),
        tuple(map(TimeRange.from_json, record["segments"])),
        None if file is None else (int(file[0]), int(file[1])),
        tuple(map(str, record["messages"])),
    )
