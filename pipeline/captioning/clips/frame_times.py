"""When the frames of a video are shown, by the timestamps of its packets, and its frames with these times.

Nothing is read from headers but the frame rate: they may give a wrong duration. Knows nothing about sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .decode_pyav import is_damage, open_video, read_packets
from .frames import check_size
from .time_range import TimeRange


@dataclass(frozen=True)
class FrameTimes:
    """The times of a video's frames in whole milliseconds, rounded half up. The first frame is shown at 0.

    times: when each frame is shown, ascending; at least one.
    end: when the last frame has been shown: its time and one average interval between frames.
    is_damaged: reading ended with an error; only the frames before it are known.
    first, time_base: timestamp of the first frame, and the unit of timestamps in seconds. `first` is None if the file
        has no usable timestamps; then the times are those of a constant frame rate.
    """

    times: Sequence[int]
    end: int
    is_damaged: bool
    first: int | None
    time_base: Fraction

    def time_of(self, timestamp: int) -> int:
        """The time of a frame with this presentation timestamp, in milliseconds."""
        assert self.first is not None
        return _rounded((timestamp - self.first) * 1000 * self.time_base)

    def inside(self, part: TimeRange) -> TimeRange:
        """The part, without what comes after the end of the video.

        Raises:
            ValueError: no video has such a part, or this one ends before it.
        """
        if part.problem:
            raise ValueError(part.problem)
        part.check_begin(self.end, "the video")
        return TimeRange(part.start, self.end if part.end is None else min(part.end, self.end))


class DamagedVideoError(Exception):
    """Decoding has come to damaged data. What is behind it is not decoded."""


def frame_times(path: str) -> FrameTimes:
    """Read the times of all frames of a video. Decodes nothing.

    Raises:
        ValueError: the file has no video stream or no frames; or neither timestamps nor a frame rate.
        Exception: any error of PyAV.
    """
    packets = read_packets(path)
    if not packets.count:
        raise ValueError("the video has no frames")
    with open_video(path) as (_, stream):
        if stream.disposition & type(stream.disposition).attached_pic:
            raise ValueError("no video stream, only a cover picture")
        rate = Fraction(stream.average_rate or stream.guessed_rate or 0)
        time_base = Fraction(stream.time_base or 0)
    if packets.timestamps:
        first, last = packets.timestamps[0], packets.timestamps[-1]
        # Whole numbers, because fractions are slow for the hundreds of thousands of frames of a long video.
        up, down = 2000 * time_base.numerator, time_base.denominator
        times: Sequence[int] = [((stamp - first) * up + down) // (2 * down) for stamp in packets.timestamps]
        span = (last - first) * 1000 * time_base
    elif rate > 0:
        first = None
        times = [_rounded(number * 1000 / rate) for number in range(packets.count)]
        span = (packets.count - 1) * 1000 / rate
    else:
        raise ValueError("the video has neither timestamps nor a frame rate")
    interval = 1000 / rate if rate > 0 else span / max(1, len(times) - 1)
    end = max(_rounded(span + interval), times[-1] + 1)
    return FrameTimes(times, end, packets.is_damaged, first, time_base)


def timed_frames(path: str, known: FrameTimes, part: TimeRange) -> Iterator[tuple[int, Any]]:
    """The frames of a video in `part`, decoded: the time in milliseconds, and the frame of PyAV, not rotated.

    Decoding begins at a key frame at or before the part.

    known: the times of the frames of this video.

    Raises:
        DamagedVideoError: the file is damaged behind the frames that were given.
        Exception: any error of PyAV, if no frame comes before it, or if it is no damage of the file.
    """
    seeks = (True, False) if part.start > 0 and known.first is not None else (False,)
    for seek in seeks:
        is_begun = False
        for time, frame in _decoded(path, known, part.start if seek else None):
            if seek and not is_begun and time > max(part.start, 0):
                break  # the file's index is wrong: frames of the part were skipped
            is_begun = True
            if part.end is not None and time >= part.end:
                return
            if time >= part.start:
                yield time, frame
        else:
            return


def _decoded(path: str, known: FrameTimes, seek_to: int | None) -> Iterator[tuple[int, Any]]:
    """The frames of a video with their times, from the key frame before `seek_to` (milliseconds) on, or all."""
    import av

    is_begun = False
    with open_video(path) as (container, stream):
        if seek_to is not None:
            assert known.first is not None
            container.seek(known.first + int(seek_to / (1000 * known.time_base)), stream=stream)
        frames = enumerate(container.decode(stream))
        while True:
            try:
                number, frame = next(frames)
            except StopIteration:
                return
            except av.FFmpegError as error:
                if not is_begun or not is_damage(error):
                    raise
                raise DamagedVideoError from error
            is_begun = True
            check_size(frame.width, frame.height)
            if known.first is None:
                if number < len(known.times):
                    yield known.times[number], frame
            elif frame.pts is not None and frame.pts >= known.first:
                yield known.time_of(frame.pts), frame


def _rounded(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
