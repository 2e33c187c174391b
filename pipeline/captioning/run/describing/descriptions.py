"""The descriptions of all videos of a command: what is known about each, and their files. On rank 0 only.

Files are replaced one by one, only if something about their video has changed. Knows nothing about runs and journals.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...long_videos.cues import render
from ...long_videos.document import (
    CAPTIONED,
    COMPLETE,
    FAILED,
    INCOMPLETE,
    KEPT,
    RUNNING,
    TRUNCATED,
    Segment,
    VideoDescription,
)
from ...meta.files import atomic_write
from ...meta.results import CaptionResult, ColumnResult
from ...process.errors import RunError
from ..summaries.settings import SUMMARY, TITLE
from .files import Inputs, Outputs
from .tables import Segments
from .written_files import WrittenFiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class About:
    """What all descriptions of a command have in common; see `VideoDescription`."""

    batch_size: int
    model: str
    prompt: str
    summary_prompt: str
    title_prompt: str
    versions: Mapping[str, str]


class Descriptions:
    """The descriptions. Thread-safe.

    begin: when the work began, on the clock of `time.monotonic`.
    """

    def __init__(self, inputs: Inputs, outputs: Outputs, segments: Segments, about: About, begin: float) -> None:
        self._outputs, self._segments, self._begin = outputs, segments, begin
        self._lock = threading.Lock()
        self._changed: set[int] = set()
        self._before: dict[tuple[int, int, int], Segment] = {}  # by video, start and end, in files of an earlier call
        self._written = WrittenFiles(outputs.folder / "files.jsonl")
        # Lists, because a video may have many segments, and each of them changes; see `_whole`.
        self._parts = [
            [Segment(number, part.start, part.end or 0) for number, part in enumerate(parts)]
            for parts in segments.of_videos
        ]
        self._described = [self._first(video, path, about) for video, path in enumerate(inputs.paths)]
        self._video_of = {path: video for video, path in enumerate(inputs.paths)}
        for video, messages in segments.messages.items():
            self._replace(video, messages=messages)
            if not self._parts[video]:
                self.end(video)
        # A description that exists is replaced only when there is something new: it may be an earlier one.
        for video, of_video in enumerate(inputs.paths):
            if not all(path.exists() and self._written.is_of(path, of_video) for _, path in outputs.of(video)):
                self._changed.add(video)

    def _first(self, video: int, path: str, about: About) -> VideoDescription:
        """What is known before the first run: the time that an earlier call needed. Without the segments."""
        earlier = self._earlier(video, path)
        for segment in () if earlier is None else earlier.segments:
            self._before[video, segment.start_ms, segment.end_ms] = segment
        return VideoDescription(
            path,
            about.batch_size,
            turnaround_time=None if earlier is None else earlier.turnaround_time,
            model=about.model,
            prompt=about.prompt,
            summary_prompt=about.summary_prompt,
            title_prompt=about.title_prompt,
            versions=about.versions,
        )

    def _earlier(self, video: int, path: str) -> VideoDescription | None:
        """The description in the JSON file of an earlier call; None if there is none, or if it is of another video."""
        file = dict(self._outputs.of(video)).get("json")
        try:
            earlier = None if file is None else VideoDescription.from_json(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.debug("%s is not the description of an earlier call: %s", file, error)
            return None
        if file is None or earlier is None or earlier.path != path:
            return None
        with contextlib.suppress(OSError):  # what is written later reports it
            self._written.add(file, path)
        return earlier

    def captioned(self, row: int, result: ColumnResult, measured: Mapping[str, float]) -> None:
        """Record the result of a segment. measured: see `RowResult.measured`.

        row: of the table of segments. Its last rows may be of videos that are not described now; they are ignored.
        """
        if row >= len(self._segments.rows):
            return
        video, number = self._segments.rows[row]
        segment = self._parts[video][number]
        if isinstance(result, CaptionResult):
            outcome = TRUNCATED if result.truncated else CAPTIONED
            new = replace(segment, description=result.caption, outcome=outcome, message="")
        else:
            new = replace(segment, description="", outcome=FAILED, message=str(result))
        seconds, frames = measured.get("seconds", segment.seconds), int(measured.get("frames", segment.frames))
        self._set_segment(video, number, replace(new, seconds=seconds, frames=frames))

    def _set_segment(self, video: int, number: int, segment: Segment) -> None:
        with self._lock:
            before = self._parts[video][number]
            if segment == before:
                return
            self._parts[video][number] = segment
            described = self._described[video]
            has_summary = described.summary or described.title or described.turnaround_time is not None
            if has_summary and segment.description != before.description:  # it was made of other captions
                self._described[video] = replace(described, summary="", title="", turnaround_time=None)
            self._changed.add(video)

    def keep_caption(self, row: int, caption: str) -> None:
        """Record that a segment has the caption of an earlier call. Is no reason to write the file of its video.

        row: as for `captioned`.
        """
        if row >= len(self._segments.rows):
            return
        video, number = self._segments.rows[row]
        with self._lock:
            segment = self._parts[video][number]
            before = self._before.get((video, segment.start_ms, segment.end_ms))
            if before is not None and before.description == caption:
                segment = replace(before, number=number)
            else:
                segment = replace(segment, description=caption, outcome=KEPT)
            self._parts[video][number] = segment

    def keep_summary(self, path: str, summary: str, title: str) -> None:
        """Record that a video has the summary and the title of an earlier call, as `keep_caption`."""
        video = self._video_of.get(path)
        if video is not None:
            with self._lock:
                self._described[video] = replace(self._described[video], summary=summary, title=title)

    def summarised(self, path: str, results: Mapping[str, ColumnResult]) -> None:
        """Record the summary and the title of a video, or why it has none. A path that is no input is ignored."""
        video = self._video_of.get(path)
        if video is None:
            return
        texts = {name: one.caption for name, one in results.items() if isinstance(one, CaptionResult)}
        messages = tuple(dict.fromkeys(str(one) for one in results.values() if not isinstance(one, CaptionResult)))
        messages = (*self._segments.messages.get(video, ()), *messages)
        self._replace(video, summary=texts.get(SUMMARY, ""), title=texts.get(TITLE, ""), messages=messages)
        self.end(video)

    def end(self, video: int) -> None:
        """Record that no more is done about a video."""
        described, parts = self._described[video], self._parts[video]
        missing = tuple(segment.number for segment in parts if not segment.description)
        is_whole = parts and not missing and video not in self._segments.messages
        is_complete = is_whole and described.summary and described.title
        time_needed = described.turnaround_time
        self._replace(
            video,
            missing=missing,
            status=COMPLETE if is_complete else INCOMPLETE,
            turnaround_time=round(time.monotonic() - self._begin, 3) if time_needed is None else time_needed,
        )

    def _replace(self, video: int, **changes: object) -> None:
        with self._lock:
            new = replace(self._described[video], **changes)  # type: ignore[arg-type]
            if new != self._described[video]:
                self._described[video] = new
                self._changed.add(video)

    def write_changed(self) -> None:
        """Write the files of the videos about which something has changed.

        Raises:
            RunError: a file can't be written.
        """
        with self._lock:
            changed, self._changed = self._changed, set()
        for video in sorted(changed):
            with self._lock:
                described = self._whole(video)
            try:
                self._write(video, described)
            except RunError:
                with self._lock:
                    self._changed |= changed  # the next call tries again
                raise
            changed.discard(video)

    def _write(self, video: int, described: VideoDescription) -> None:
        for name, path in self._outputs.of(video):
            content = render(described, name).encode("utf-8")
            if not path.exists() or path.read_bytes() != content:
                self._written.claim(path, described.path)
                with atomic_write(path) as temporary:
                    temporary.write_bytes(content)

    def _whole(self, video: int) -> VideoDescription:
        return replace(self._described[video], segments=tuple(self._parts[video]))

    @property
    def all(self) -> list[VideoDescription]:
        """All descriptions, in the order of the videos."""
        with self._lock:
            return list(map(self._whole, range(len(self._described))))

    @property
    def has_segments(self) -> bool:
        """Whether a video has been divided."""
        return bool(self._segments.rows)

    @property
    def has_captions(self) -> bool:
        """Whether a segment has a caption."""
        return any(segment.description for parts in self._parts for segment in parts)

    @property
    def has_summaries(self) -> bool:
        """Whether a video has a summary."""
        return any(described.summary for described in self._described)

    @property
    def running(self) -> list[int]:
        """The videos whose work has not ended."""
        return [video for video, described in enumerate(self._described) if described.status == RUNNING]
