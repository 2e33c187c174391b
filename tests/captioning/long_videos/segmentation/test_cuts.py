"""Where segments begin: the arithmetic at its edges, and that every frame is in exactly one segment."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.long_videos.segmentation.cuts import equal_cuts, scene_cuts


def _times(frames: int, rate: Fraction | int) -> list[int]:
    """Times of frames at a constant rate, rounded half up to milliseconds."""
    return [int(number * 1000 / Fraction(rate) + Fraction(1, 2)) for number in range(frames)]


@pytest.mark.parametrize(
    ("frames", "rate", "length", "cuts"),
    [
        (100, 10, 2000, [0, 2000, 4000, 6000, 8000]),  # exactly five segments
        (101, 10, 2000, [0, 2000, 4000, 6000, 8000, 10000]),  # one frame more
        (99, 10, 2000, [0, 2000, 4000, 6000, 8000]),
        (5, 25, 2000, [0]),  # 0.2 s
        (1, 25, 2000, [0]),
        (4, 1, Fraction(4000), [0]),
        (5, 1, Fraction(4000), [0, 4000]),
        (7, 30, Fraction(100), [0, 100, 200]),  # every third frame: 100 and 200 ms are times of frames
        (9, 30, Fraction(4000, 120), [0, 33, 67, 100, 133, 167, 200, 233, 267]),  # each frame by itself
        (48, Fraction(24000, 1001), Fraction(1000), [0, 1000]),
    ],
)
def test_segments_of_equal_length(frames: int, rate: Fraction | int, length: Fraction | int, cuts: list[int]) -> None:
    times = _times(frames, rate)
    part = TimeRange(0, times[-1] + 1)
    assert equal_cuts(times, part, Fraction(length)) == cuts


def test_a_frame_that_is_shown_for_longer_than_a_segment_is_in_one_segment() -> None:
    times = [0, 40, 35_000, 35_040]
    assert equal_cuts(times, TimeRange(0, 36_000), Fraction(10_000)) == [0, 30_000]
    assert equal_cuts([35_000, 35_040], TimeRange(5_000, 36_000), Fraction(10_000)) == [5_000]
    assert equal_cuts([], TimeRange(5_000, 6_000), Fraction(100)) == [5_000]


def test_a_range_is_divided_from_its_own_start() -> None:
    times = [time for time in _times(100, 10) if 1250 <= time < 5000]
    assert equal_cuts(times, TimeRange(1250, 5000), Fraction(1500)) == [1250, 2750, 4250]


def test_timestamps_far_apart_take_no_memory() -> None:
    """A damaged file may have any timestamp."""
    assert equal_cuts([0, 10**15], TimeRange(0, 10**15 + 40), Fraction(1)) == [0, 10**15]


@settings(max_examples=150, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 5000), max_size=60),
    start=st.integers(0, 3000),
    length=st.fractions(min_value=1, max_value=20_000, max_denominator=3000),
)
def test_every_frame_is_in_exactly_one_segment(gaps: list[int], start: int, length: Fraction) -> None:
    times = [0]
    for gap in gaps:
        times.append(times[-1] + gap)
    part = TimeRange(start, max(times[-1], start) + 40)
    inside = [time for time in times if part.contains(time)]
    cuts = equal_cuts(inside, part, length)
    segments = [TimeRange(begin, end) for begin, end in pairwise([*cuts, part.end])]
    assert cuts[0] == start and not any(segment.problem for segment in segments)
    for time in inside:
        assert sum(segment.contains(time) for segment in segments) == 1
    if inside:
        assert all(any(map(segment.contains, inside)) for segment in segments)
    # Frames that begin less than `length` after the first frame of a segment may be in the next one, but no frame is
    # further from it, unless frames are missing.
    for segment in segments:
        own = list(filter(segment.contains, inside))
        assert not own or own[-1] - own[0] <= length + 1


def test_scenes_are_not_shorter_or_longer_than_asked() -> None:
    times, part = _times(250, 25), TimeRange(0, 10_000)
    assert scene_cuts(times, part, [2_000, 9_800], 600, 0) == [0, 2_000]
    assert scene_cuts(times, part, [2_000, 9_400], 600, 0) == [0, 2_000, 9_400]
    assert scene_cuts(times, part, [9_800], 10_000, 0) == [0]
    assert scene_cuts(times, part, [2_000], 600, 3_000) == [0, 2_000, 4_667, 7_333]
    assert scene_cuts(times, part, [], 600, 5_000) == [0, 5_000]
    assert scene_cuts(times, part, [], 600, 4_999) == [0, 3_333, 6_667]
    # A still picture of 8 s has one frame, so it can't be divided.
    assert scene_cuts([0, 40, 8_000], TimeRange(0, 8_040), [], 600, 1_000) == [0, 7_147]
