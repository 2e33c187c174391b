"""The descriptions of all videos of a command: what is known about each, and their files. On rank 0 only.

Files are replaced one by one, only if something about their video has changed. Knows nothing about runs and journals.
"""

from __future__ import annotations

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
    PENDING,
    RUNNING,
    TRUNCATED,
    Segment,
    VideoDescription,
)
from ...meta.files import atomic_write
from ...meta.results import CaptionResult, ColumnResult
from ..summaries.settings import SUMMARY, TITLE
from .files import Inputs, Outputs
from .tables import Segments

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
        self._before: dict[tuple[int, int], Segment] = {}  # by numbers of video and segment, in an earlier file
        self._described = [self._first(video, path, about) for video, path in enumerate(inputs.paths)]
        self._video_of = {path: video for video, path in enumerate(inputs.paths)}
        for video, problem in segments.problems.items():
            self._replace(video, status=INCOMPLETE, messages=(problem,))
        # A file that exists is replaced only when there is something new: it may have an earlier description.
        for video in range(len(inputs.paths)):
            if not all(path.exists() for _, path in outputs.of(video)):
                self._changed.add(video)

    def _first(self, video: int, path: str, about: About) -> VideoDescription:
        """What is known before the first run: the segments, and what the file of an earlier call says about them."""
        segments = []
        earlier = self._earlier(video)
        times = {} if earlier is None else {(one.start_ms, one.end_ms): one for one in earlier.segments}
        for number, part in enumerate(self._segments.of_videos[video]):
            assert part.end is not None
            before = times.get((part.start, part.end))
            segment = Segment(number, part.start, part.end)
            if before is not None:
                self._before[video, number] = before
                segment = replace(before, number=number, outcome=PENDING, message="")
            segments.append(segment)
        return VideoDescription(
            path,
            about.batch_size,
            tuple(segments),
            turnaround_time=None if earlier is None else earlier.turnaround_time,
            model=about.model,
            prompt=about.prompt,
            summary_prompt=about.summary_prompt,
            title_prompt=about.title_prompt,
            versions=about.versions,
        )

    def _earlier(self, video: int) -> VideoDescription | None:
        """The description in the JSON file of an earlier call."""
        for name, path in self._outputs.of(video):
            if name == "json":
                try:
                    return VideoDescription.from_json(json.loads(path.read_text(encoding="utf-8")))
                except FileNotFoundError:
                    return None
                except (OSError, ValueError) as error:
                    logger.warning("%s is not the description of an earlier call, and is replaced: %s", path, error)
        return None

    def captioned(self, row: int, result: ColumnResult, measured: Mapping[str, float]) -> None:
        """Record the result of a segment. row: of the table of segments. measured: see `RowResult.measured`."""
        video, number = self._segments.rows[row]
        segment = self._described[video].segments[number]
        if isinstance(result, CaptionResult):
            outcome = TRUNCATED if result.truncated else CAPTIONED
            new = replace(segment, description=result.caption, outcome=outcome, message="")
        else:
            new = replace(segment, description="", outcome=FAILED, message=str(result))
        seconds, frames = measured.get("seconds", segment.seconds), int(measured.get("frames", segment.frames))
        self._set_segment(video, number, replace(new, seconds=seconds, frames=frames))

    def kept(self, row: int, caption: str) -> None:
        """Record that a segment keeps the caption of an earlier call."""
        video, number = self._segments.rows[row]
        segment = self._described[video].segments[number]
        before = self._before.get((video, number))
        is_same = before is not None and before.description == caption
        outcome = before.outcome if before is not None and is_same else KEPT
        self._set_segment(video, number, replace(segment, description=caption, outcome=outcome))

    def _set_segment(self, video: int, number: int, segment: Segment) -> None:
        with self._lock:
            described = self._described[video]
            if described.segments[number] != segment:
                segments = (*described.segments[:number], segment, *described.segments[number + 1 :])
                is_new = segment.description != described.segments[number].description
                needed = None if is_new else described.turnaround_time
                self._described[video] = replace(described, segments=segments, turnaround_time=needed)
                self._changed.add(video)

    def summarised(self, path: str, results: Mapping[str, ColumnResult]) -> None:
        """Record the summary and the title of a video, or why it has none."""
        texts = {name: one.caption for name, one in results.items() if isinstance(one, CaptionResult)}
        messages = tuple(dict.fromkeys(str(one) for one in results.values() if not isinstance(one, CaptionResult)))
        video = self._video_of[path]
        self._replace(video, summary=texts.get(SUMMARY, ""), title=texts.get(TITLE, ""), messages=messages)
        self.end(video)

    def end(self, video: int) -> None:
        """Record that no more is done about a video."""
        described = self._described[video]
        missing = tuple(segment.number for segment in described.segments if not segment.description)
        is_complete = described.segments and described.summary and described.title and not missing
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
            changed, self._changed = sorted(self._changed), set()
            described = {video: self._described[video] for video in changed}
        for video, one in described.items():
            for name, path in self._outputs.of(video):
                content = render(one, name).encode("utf-8")
                if not path.exists() or path.read_bytes() != content:
                    with atomic_write(path) as temporary:
                        temporary.write_bytes(content)

    @property
    def all(self) -> list[VideoDescription]:
        """All descriptions, in the order of the videos."""
        with self._lock:
            return list(self._described)

    @property
    def running(self) -> list[int]:
        """The videos whose work has not ended."""
        return [video for video, described in enumerate(self.all) if described.status == RUNNING]
