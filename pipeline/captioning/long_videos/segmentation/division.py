"""Divide one video, or parts of it, into segments. Runs in processes that may be killed.

Knows nothing about tables.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from ...clips.decode import DecodeError, check_path, kind_of
from ...clips.file_processes import message_of
from ...clips.frame_times import DamagedVideoError, FrameTimes, frame_times, timed_frames
from ...clips.incomplete import is_incomplete
from ...clips.media import names_image
from ...clips.time_range import TimeRange
from .cuts import equal_cuts, scene_cuts
from .scenes import find_scenes


@dataclass(frozen=True)
class EqualParts:
    """Segments of equal length, in milliseconds (at least 1)."""

    length: Fraction


@dataclass(frozen=True)
class Scenes:
    """Segments from cut to cut.

    detector, threshold: as in `scenes.find_scenes`.
    shortest, longest: length of a segment in milliseconds; `longest` is 0 for no limit.
    """

    detector: str
    threshold: float | None
    shortest: int
    longest: int


@dataclass(frozen=True)
class Division:
    """What is to be divided: the parts `parts` of the file `path` by `rule`."""

    path: str
    parts: tuple[TimeRange, ...]
    rule: EqualParts | Scenes


@dataclass(frozen=True)
class Divided:
    """The segments of each of `Division.parts`, in order of time, or its problem.

    is_partial: the file is cut off or damaged. The segments end at the damage.
    """

    segments: tuple[tuple[TimeRange, ...] | str, ...]
    is_partial: bool


def count_frames(division: Division) -> int | str:
    """The number of frames in all parts, or the problem of the file. Decodes nothing."""
    try:
        times = _read_times(division.path).times
    except Exception as error:  # decoders raise exceptions of any type
        return message_of(error)
    return sum(len(_inside(times, part)) for part in division.parts)


def divide(division: Division) -> Divided | str:
    """The segments of a file, or its problem."""
    try:
        known = _read_times(division.path)
        done = [_divide_part(division, known, part) for part in division.parts]
        is_partial = known.is_damaged or any(damaged for _, damaged in done) or is_incomplete(division.path)
    except Exception as error:  # decoders raise exceptions of any type
        return message_of(error)
    return Divided(tuple(segments for segments, _ in done), is_partial)


def _read_times(path: str) -> FrameTimes:
    """The times of the frames of a video.

    Raises:
        DecodeError: the path does not lead to a file, or this is an image or a playlist.
        Exception: as `frame_times`.
    """
    check_path(path)
    kind = kind_of(path, path)
    if kind == "image" or (not kind and names_image(path)):
        raise DecodeError(["an image can't be divided; leave it out, or convert an animation to a video"])
    return frame_times(path)


def _divide_part(division: Division, known: FrameTimes, part: TimeRange) -> tuple[tuple[TimeRange, ...] | str, bool]:
    """The segments of a part or its problem; and whether they end early because the file is damaged."""
    try:
        whole = known.inside(part)
    except ValueError as error:
        return str(error), False
    times = _inside(known.times, whole)
    if isinstance(division.rule, EqualParts):
        return _between(equal_cuts(times, whole, division.rule.length), whole), False
    rule, last, is_damaged = division.rule, whole.start, False

    def frames() -> Iterator[tuple[int, Any]]:
        nonlocal last, is_damaged
        try:
            for timed in timed_frames(division.path, known, whole):
                last = timed[0]
                yield timed
        except DamagedVideoError:
            is_damaged = True

    found = find_scenes(frames(), rule.detector, rule.threshold, rule.shortest)
    lost = bisect_right(times, last)
    if is_damaged and lost < len(times):
        whole, times = TimeRange(whole.start, times[lost]), times[:lost]
    return _between(scene_cuts(times, whole, found, rule.shortest, rule.longest), whole), is_damaged


def _inside(times: Sequence[int], part: TimeRange) -> Sequence[int]:
    end = len(times) if part.end is None else bisect_left(times, part.end)
    return times[bisect_left(times, part.start) : end]


def _between(cuts: Sequence[int], part: TimeRange) -> tuple[TimeRange, ...]:
    assert part.end is not None
    return tuple(TimeRange(start, end) for start, end in pairwise([*cuts, part.end]))
