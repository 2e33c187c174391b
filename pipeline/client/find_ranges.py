"""The time ranges of a video that match, from the captions of its segments. Knows nothing about servers and output."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..captioning.clips.time_range import TimeRange


@dataclass(frozen=True)
class FoundRange:
    """A part of the video, and the number of neighbouring segments that it consists of."""

    part: TimeRange
    segments: int


def joined(segments: Sequence[TimeRange], matching: Collection[int]) -> list[FoundRange]:
    """The ranges that match, in order of time; segments that follow one another are one range.

    segments: of the video, in order of time. matching: indices of those whose captions match.
    """
    ranges: list[FoundRange] = []
    last = -2
    for number in sorted(matching):
        segment = segments[number]
        if number == last + 1 and ranges[-1].part.end == segment.start:
            ranges[-1] = FoundRange(TimeRange(ranges[-1].part.start, segment.end), ranges[-1].segments + 1)
        else:
            ranges.append(FoundRange(segment, 1))
        last = number
    return ranges
