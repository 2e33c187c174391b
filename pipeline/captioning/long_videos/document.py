"""The description of one video: its segments with their captions, the summary and the title. JSON is its stored form.

Knows nothing about runs, models and files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .json_values import JsonObject

CAPTIONED, TRUNCATED, KEPT, FAILED, PENDING = "captioned", "truncated", "kept", "failed", "pending"
OUTCOMES = (CAPTIONED, TRUNCATED, KEPT, FAILED, PENDING)
"""What became of a segment. Truncated: generation stopped at `max_new_tokens`. Kept: it has an earlier caption."""
RUNNING, COMPLETE, INCOMPLETE = "running", "complete", "incomplete"
STATUSES = (RUNNING, COMPLETE, INCOMPLETE)
"""State of a description. Incomplete: the work has ended, but a segment, the summary or the title is missing."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the video and its caption.

    number: from 0, in order of time.
    start_ms, end_ms: in milliseconds from the first frame of the video; the segment ends before `end_ms`.
    frames: number of frames that the model was given; 0 if it was given none yet.
    description: the caption; '' if there is none.
    outcome: one of OUTCOMES.
    seconds: from adding the request to its end; None if unknown. JSON keeps milliseconds.
    frame_times: when the frames are shown, in seconds; None if unknown. JSON keeps milliseconds.
    message: why the segment failed; '' if it did not.
    """

    number: int
    start_ms: int
    end_ms: int
    frames: int = 0
    description: str = ""
    outcome: str = PENDING
    seconds: float | None = None
    frame_times: tuple[float, ...] | None = None
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """The segment under the names of the JSON format, where it is called a batch."""
        record: dict[str, Any] = {
            "batch_id": self.number,
            "frames": self.frames,
            "time": _rounded(self.seconds),
            "description": self.description,
            "start": self.start_ms / 1000,
            "end": self.end_ms / 1000,
            "outcome": self.outcome,
        }
        if self.frame_times is not None:
            record["frame_times"] = [_rounded(time) for time in self.frame_times]
        if self.message:
            record["message"] = self.message
        return record

    @classmethod
    def from_json(cls, value: Any, name: str = "the segment") -> Segment:
        """The inverse of `to_json`; unknown keys are ignored.

        name: of the segment, for messages.

        Raises:
            ValueError: a key is missing or has an impossible value.
        """
        record = JsonObject(value, name)
        times = record.numbers("frame_times") if "frame_times" in record else None
        segment = cls(
            number=record.count("batch_id"),
            start_ms=round(record.number("start") * 1000),
            end_ms=round(record.number("end") * 1000),
            frames=record.count("frames"),
            description=record.text("description"),
            outcome=record.one_of("outcome", OUTCOMES),
            seconds=record.number_or_null("time"),
            frame_times=None if times is None else tuple(times),
            message=record.text("message", ""),
        )
        if segment.end_ms < segment.start_ms:
            raise ValueError(f"{name} ends at {record.number('end')} s, before it starts")
        return segment


@dataclass(frozen=True, slots=True)
class VideoDescription:
    """What is known about one video.

    path: of a local file, or a URL.
    batch_size: frames of a segment; 0 if segments are not made of a number of frames.
    segments: in order of time.
    summary, title: '' if there is none, or not yet.
    turnaround_time: seconds from the start of the work to its end; None if it has not ended. JSON keeps milliseconds.
    model, prompt, summary_prompt, title_prompt: what made the description.
    versions: of programs, by name.
    missing: numbers of the segments that the summary was made without.
    status: one of STATUSES.
    messages: why the video, its summary or its title failed. The messages of segments are theirs.
    """

    path: str
    batch_size: int = 0
    segments: tuple[Segment, ...] = ()
    summary: str = ""
    title: str = ""
    turnaround_time: float | None = None
    model: str = ""
    prompt: str = ""
    summary_prompt: str = ""
    title_prompt: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[int, ...] = ()
    status: str = RUNNING
    messages: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The description as an object for `json.dumps`."""
        times = [segment.seconds for segment in self.segments if segment.seconds is not None]
        record: dict[str, Any] = {
            "video": self.path,
            "video_title": self.title,
            "batch_size": self.batch_size,
            "batches": [segment.to_json() for segment in self.segments],
            "frames_analysed": sum(segment.frames for segment in self.segments),
            "summary": self.summary,
            "average_inference": _rounded(sum(times) / len(times)) if times else None,
            "turnaround_time": _rounded(self.turnaround_time),
            "model": self.model,
            "prompt": self.prompt,
            "summary_prompt": self.summary_prompt,
            "title_prompt": self.title_prompt,
            "versions": dict(self.versions),
            "missing_segments": list(self.missing),
            "status": self.status,
        }
        if self.messages:
            record["messages"] = list(self.messages)
        return record

    @classmethod
    def from_json(cls, value: Any) -> VideoDescription:
        """The inverse of `to_json`. Unknown keys and those that follow from others are ignored.

        value: as `json.loads` gives it.

        Raises:
            ValueError: a key is missing or has an impossible value; the message names it.
        """
        record = JsonObject(value, "the description")
        batches = enumerate(record.items("batches"))
        segments = tuple([Segment.from_json(batch, f"batches[{place}]") for place, batch in batches])
        numbers = [segment.number for segment in segments]
        if len(set(numbers)) < len(numbers):
            raise ValueError("two batches have the same batch_id")
        return cls(
            path=record.text("video"),
            batch_size=record.count("batch_size"),
            segments=segments,
            summary=record.text("summary"),
            title=record.text("video_title"),
            turnaround_time=record.number_or_null("turnaround_time"),
            model=record.text("model"),
            prompt=record.text("prompt"),
            summary_prompt=record.text("summary_prompt"),
            title_prompt=record.text("title_prompt"),
            versions=record.texts_by_name("versions"),
            missing=tuple(record.counts("missing_segments")),
            status=record.one_of("status", STATUSES),
            messages=tuple(record.texts("messages") if "messages" in record else ()),
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
