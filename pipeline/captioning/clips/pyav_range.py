"""Find the frames of a time range of a video from its packets, by seeking, without reading the packets before.

Headers are not trusted: the end of a video is known only where packets were read up to it. Knows nothing about
sampling, and decodes nothing.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from .incomplete import is_incomplete
from .pyav_video import Packet, is_damage, open_video, shown_packets
from .time_range import TimeRange

FRAMES_BEHIND = 32
"""A range has ended after this many frames in a row that are behind it: codecs reorder at most 16 frames."""
_FIRST_STEP_SECONDS = 0.5
"""If a seek arrives too late, the next one aims this much earlier, and each following one twice as much."""
_GUESSED_AFTER_SEEKING = ("mpeg",)
"""Formats in which not every packet has a timestamp (MPEG program streams). FFmpeg guesses the others, and after a seek
it guesses other ones."""
_VARIABLE_RATE = Fraction(1, 20)
"""If the rate of a range differs from the average rate of the stream by a larger share, the range has a rate of its
own."""


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown. The first one is shown at 0.

    first: timestamp of the first frame. unit: seconds of one unit of timestamps.
    rate: average number of frames per second; None if it is unknown.
    """

    first: int
    unit: Fraction
    rate: Fraction | None

    def latest(self, milliseconds: int) -> int:
        """The latest timestamp whose time, rounded half up to milliseconds, is not after `milliseconds`."""
        return self.first + math.ceil(Fraction(2 * milliseconds + 1, 2000) / self.unit) - 1

    def after(self, part: TimeRange) -> int | None:
        """The first timestamp that is not before the end of a range; None for the end of the file."""
        return None if part.end is None else self.latest(part.end - 1) + 1

    def end(self, last: int) -> int:
        """When a video ends whose last frame has the timestamp `last`, in milliseconds."""
        duration = (last - self.first) * self.unit
        interval = 1 / self.rate if self.rate else 0
        # The last frame is shown for at least a millisecond, also if the rate is unknown.
        return max(_rounded_ms(duration + interval), _rounded_ms(duration) + 1)


def _rounded_ms(seconds: Fraction) -> int:
    return math.floor(seconds * 1000 + Fraction(1, 2))


@dataclass(frozen=True)
class RangeFrames:
    """The frames of a range of a video.

    numbers: of these frames among those that were found. timestamps: of these frames, ascending.
    rate: frames per second; 0.0 if it is unknown.
    partial: frames of the range are missing.
    timeline: of the video.
    entry: the timestamp with which a seek arrives before the range; None to read from the start of the file.
    key_timestamps: of key frames, ascending, from the one before the range on; empty to decode from the start.
    """

    numbers: Sequence[int]
    timestamps: Sequence[int]
    rate: float
    partial: bool
    timeline: Timeline
    entry: int | None = None
    key_timestamps: Sequence[int] = ()


def find_frames(path: str, part: TimeRange) -> RangeFrames | None:
    """The frames of a range, from the timestamps of packets; None if timestamps are missing, or two are equal.

    If no frame begins in the range, the frame that is shown at its start is the only one.

    Raises:
        ValueError: the file has no video stream or no frames, the frames are too large, or the range begins after the
            end of the video.
        Exception: any error of PyAV.
    """
    try:
        return _find_frames(path, part, may_seek=True)
    except _SeekFailed:
        return _find_frames(path, part, may_seek=False)


class _SeekFailed(Exception):
    """No seek arrives before the range."""


def _find_frames(path: str, part: TimeRange, may_seek: bool) -> RangeFrames | None:
    with open_video(path) as (container, stream):
        reader = _Reader(container, stream)
        packets = reader.packets()
        head = list(itertools.islice(packets, FRAMES_BEHIND + 1))
        timestamps = _sorted_timestamps(head)
        if timestamps is None or _has_wrong_order(container, stream, head):
            return None
        timeline = Timeline(timestamps[0], stream.time_base, stream_rate(stream))
        start = timeline.latest(part.start)
        can_seek = may_seek and container.format.name not in _GUESSED_AFTER_SEEKING
        entry = None
        if can_seek and timestamps[-1] <= start and not reader.is_end:
            entry, packets = _seek(reader, timeline, start)
            head = []
        read, has_ended = _until(timeline.after(part), itertools.chain(head, packets))
    found = _sorted_timestamps(read)
    if found is None:
        return None
    is_damaged = not has_ended and (reader.is_damaged or is_incomplete(path))
    try:
        frames = frames_in(timeline, part, found, has_ended, is_damaged)
    except ValueError:
        if _has_equal(found):
            return None
        raise
    # Where timestamps are guessed, two equal ones show that all that follow may be wrong.
    if _has_equal(frames.timestamps if can_seek else found):
        return None
    keys = sorted(packet.pts for packet in read if packet.is_key and packet.pts is not None) if can_seek else ()
    return replace(frames, entry=entry, key_timestamps=keys)


def _has_equal(timestamps: Sequence[int]) -> bool:
    return len(set(timestamps)) < len(timestamps)


def _has_wrong_order(container: Any, stream: Any, packets: Sequence[Packet]) -> bool:
    """Whether timestamps are in the order of decoding although frames are shown in another one.

    AVI files have no timestamps. FFmpeg gets the order of frames from MPEG-4 packets, but not from those of H.264.
    """
    in_order = all(one.pts < other.pts for one, other in itertools.pairwise(packets) if one.pts and other.pts)
    return bool(container.format.name == "avi" and stream.codec_context.has_b_frames and in_order)


def frames_in(
    timeline: Timeline, part: TimeRange, found: Sequence[int], has_ended: bool, is_damaged: bool
) -> RangeFrames:
    """The frames of a range, found from the start of the file.

    found: timestamps of frames, ascending: all that are shown in the range, and maybe others before and behind it.
    has_ended: the range ends before the video does. If not, the last frame found is the last one of the video, or of
        the part of it that can be read.
    is_damaged: only a part of the video can be read, and `found` ends there.

    Raises:
        ValueError: the range begins after the end of the video.
    """
    partial = False
    if not has_ended:
        end = timeline.end(found[-1])
        part.check_begin(end, "the part of the video that can be read" if is_damaged else "the video")
        partial = is_damaged or part.is_longer_than(end, float(timeline.rate or 0))
    first = bisect_right(found, timeline.latest(part.start - 1))
    after = timeline.after(part)
    numbers = range(first, len(found) if after is None else bisect_left(found, after))
    if not numbers:  # no frame begins in the range
        shown = max(bisect_right(found, timeline.latest(part.start)) - 1, 0)
        numbers = range(shown, shown + 1)
    timestamps = found[numbers.start : numbers.stop]
    return RangeFrames(numbers, timestamps, _rate(timeline, timestamps), partial, timeline)


def _rate(timeline: Timeline, timestamps: Sequence[int]) -> float:
    """The rate of the stream; that of the frames of the range if it differs."""
    intervals = len(timestamps) - 1
    span = (timestamps[-1] - timestamps[0]) * timeline.unit
    if intervals and timeline.rate:
        expected = intervals / timeline.rate
        if abs(span - expected) <= max(_VARIABLE_RATE * expected, timeline.unit):  # timestamps are rounded to the unit
            return float(timeline.rate)
    return float(intervals / span) if span else float(timeline.rate or 0)


class _Reader:
    """Reads packets until the file ends or is damaged.

    is_end: the last packet was read. is_damaged: reading ended with an error.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream
        self.is_end = self.is_damaged = False

    def packets(self) -> Iterator[Packet]:
        """The packets from the present position on.

        Raises:
            ValueError: there are none. Exception: any error of PyAV but damage after the first packet.
        """
        import av

        is_empty = True
        try:
            for packet in shown_packets(self._container, self._stream):
                is_empty = False
                yield packet
        except av.FFmpegError as error:
            if is_empty or not is_damage(error):
                raise
            self.is_damaged = True
        if is_empty:
            raise ValueError("the video has no frames")
        self.is_end = True

    def after_seek(self, timestamp: int) -> Iterator[Packet]:
        """The packets from the first key frame on that follows where a seek arrives; none if it fails."""
        import av

        self.is_end = self.is_damaged = False
        try:
            self._container.seek(timestamp, stream=self._stream)
            yield from itertools.dropwhile(lambda packet: not packet.is_key, self.packets())
        except (av.FFmpegError, ValueError):
            return


def _seek(reader: _Reader, timeline: Timeline, start: int) -> tuple[int, Iterator[Packet]]:
    """Seek to a key frame at or before the timestamp `start`. Returns where a seek has to aim, and the packets from
    the key frame on.

    Raises:
        _SeekFailed: there is no such aim.
    """
    entry, step = start, math.ceil(_FIRST_STEP_SECONDS / timeline.unit)
    while entry > timeline.first:
        packets = reader.after_seek(entry)
        key = next(packets, None)
        if key is not None and key.pts is not None and key.pts <= start:
            return entry, itertools.chain([key], packets)
        entry, step = start - step, 2 * step
    raise _SeekFailed


def _until(after: int | None, packets: Iterable[Packet]) -> tuple[list[Packet], bool]:
    """The packets of all frames before the timestamp `after`, maybe others, and whether these are all of them.

    after: None for the end of the file.
    """
    read: list[Packet] = []
    behind, has_ended = 0, False
    for packet in packets:
        read.append(packet)
        if after is None:
            continue
        behind = behind + 1 if packet.pts is not None and packet.pts >= after else 0
        # A frame is not shown before it is decoded, and packets are in the order of decoding.
        has_ended = has_ended or behind == FRAMES_BEHIND or (packet.dts is not None and packet.dts >= after)
        if behind == FRAMES_BEHIND:
            break
    return read, has_ended


def _sorted_timestamps(packets: Sequence[Packet]) -> list[int] | None:
    """None if any is missing."""
    timestamps = sorted(packet.pts for packet in packets if packet.pts is not None)
    return timestamps if len(timestamps) == len(packets) else None


def stream_rate(stream: Any) -> Fraction | None:
    """The average number of frames of a stream per second; None if it is unknown."""
    rate = stream.average_rate or stream.guessed_rate
    return rate if rate and rate > 0 else None
