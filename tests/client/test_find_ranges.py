"""Joining neighbouring segments."""

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.client.find_ranges import FoundRange, joined

SEGMENTS = [TimeRange(0, 2000), TimeRange(2000, 4000), TimeRange(4000, 6000), TimeRange(6500, 8000)]


def test_neighbours_are_one_range() -> None:
    assert joined(SEGMENTS, {1, 0}) == [FoundRange(TimeRange(0, 4000), 2)]
    assert joined(SEGMENTS, {0, 2}) == [FoundRange(TimeRange(0, 2000), 1), FoundRange(TimeRange(4000, 6000), 1)]
    assert joined(SEGMENTS, set()) == []


def test_a_gap_divides_ranges() -> None:
    found = [FoundRange(TimeRange(2000, 6000), 2), FoundRange(TimeRange(6500, 8000), 1)]
    assert joined(SEGMENTS, {1, 2, 3}) == found
