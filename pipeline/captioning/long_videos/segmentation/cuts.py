"""Where segments begin, from the times of frames. Opens no file. All times are in milliseconds.

Cuts are the beginnings of segments, ascending; the first is the beginning of what is divided. A segment lasts until the
next cut. A frame belongs to the segment in which it begins to be shown, and each segment has at least one such frame,
unless none begins to be shown in the whole part that is divided.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from ...clips.time_range import TimeRange


def equal_cuts(times: Sequence[int], part: TimeRange, length: Fraction) -> list[int]:
    """Cuts every `length` milliseconds, rounded half up. The last segment is as short as what is left.

    A segment without frames, because one frame is shown for longer than `length`, is joined with the one before it.

    times: of the frames in `part`, ascending.
    length: at least 1.
    """

    def cut(number: int) -> int:
        return part.start + math.floor(number * length + Fraction(1, 2))

    cuts, position = [part.start], 0
    while position < len(times):
        number = math.floor((times[position] - part.start) / length)
        if cut(number) > times[position]:  # it was rounded up, beyond the frame
            number -= 1
        elif cut(number + 1) <= times[position]:  # it was rounded down, to the frame
            number += 1
        if position:
            cuts.append(cut(number))
        position = bisect_left(times, cut(number + 1), lo=position + 1)
    return cuts


def scene_cuts(times: Sequence[int], part: TimeRange, found: Sequence[int], shortest: int, longest: int) -> list[int]:
    """Cuts at the times `found`, with short and long scenes changed.

    times: of the frames in `part`, which has an end, ascending.
    found: times of first frames of scenes, ascending.
    shortest: a last scene that is shorter than this is joined with the one before it.
    longest: a longer scene is divided into the smallest number of equal parts that are not longer; 0 for no limit.
    """
    assert part.end is not None
    begins = [part.start, *(time for time in found if part.start < time < part.end)]
    if len(begins) > 1 and part.end - begins[-1] < shortest:
        begins.pop()
    if not longest:
        return begins
    cuts = []
    for begin, end in pairwise([*begins, part.end]):
        inside = times[bisect_left(times, begin) : bisect_left(times, end)]
        parts = math.ceil(Fraction(end - begin, longest))
        cuts += equal_cuts(inside, TimeRange(begin, end), Fraction(end - begin, parts))
    return cuts
