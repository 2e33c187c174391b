"""Decode a time range of a video with PyAV (FFmpeg).

The frames are found by their packets and decoded by seeking. If that fails, all frames from the key frame before the
range are decoded to learn which ones there are; in the end all frames from the start of the file. Knows nothing about
other decoders.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from .frames import Collect, Frames, SampledFrames, distinct_frames, scaled_down
from .incomplete import is_incomplete
from .pyav_range import FRAMES_BEHIND, RangeFrames, Timeline, find_frames, frames_in, stream_rate
from .pyav_video import WrongTimestamps, decode_by_seeking, decode_from_start, is_damage, open_video
from .sampling import FrameSampling
from .time_range import TimeRange


def decode_pyav_range(
    path: str, part: TimeRange, sampling: FrameSampling, short_side: int, collect: Collect[Frames]
) -> SampledFrames[Frames]:
    """Sample frames of a range of a video. Positions and the number of frames are those of the range.

    A range that ends later than the video, or where it is damaged, is partial.

    short_side: larger frames are scaled so that their shorter side has this many pixels; 0 for no scaling.
    collect: gets the scaled frames.

    Raises:
        ValueError: the file has no video stream or no frames, or the frames are too large; the range begins after the
            end of the video; the file has neither timestamps nor a frame rate.
        Exception: any error of PyAV.
    """

    def sampled(frames: RangeFrames, by_number: bool = False) -> SampledFrames[Frames]:
        positions = sampling.indices(len(frames.numbers), frames.rate)
        wanted = distinct_frames(positions)[0]
        if by_number:
            images = decode_from_start(path, [frames.numbers[position] for position in wanted])
        else:
            timestamps = [frames.timestamps[position] for position in wanted]
            images = decode_by_seeking(path, timestamps, frames.key_timestamps, frames.timeline.first)
        collected = collect(scaled_down(image, short_side) for image in images)
        return SampledFrames(collected, tuple(positions), frames.rate, len(frames.numbers), frames.partial)

    found = find_frames(path, part)
    if found is not None:
        # In MPEG transport streams a seek to a key frame arrives behind it.
        one_seek = replace(found, key_timestamps=[] if found.entry is None else [found.entry])
        for frames in (found, one_seek) if found != one_seek else (found,):
            try:
                return sampled(frames)
            except Exception:  # seeking may fail in any way
                continue
        try:
            return sampled(_learned(path, part, one_seek))
        except Exception:
            pass
    return sampled(_counted(path, part, None if found is None else found.timeline), by_number=True)


def _learned(path: str, part: TimeRange, found: RangeFrames) -> RangeFrames:
    """The frames of a range that are decoded after the seek that arrives before it: some packets may have no frame.

    Raises:
        WrongTimestamps: the seek arrives too late, or frames are not in order. Exception: any error of PyAV.
    """
    frames = _Decoded(path, part, found.timeline, found.entry)
    if frames.timestamps[0] > found.timeline.latest(part.start):
        raise WrongTimestamps("decoding begins after the range does")
    if any(timestamp >= following for timestamp, following in itertools.pairwise(frames.timestamps)):
        raise WrongTimestamps("frames are not in order")
    return replace(frames.in_range(), entry=found.entry, key_timestamps=found.key_timestamps)


def _counted(path: str, part: TimeRange, timeline: Timeline | None) -> RangeFrames:
    """The frames of a range, counted from the start of the file.

    timeline: of the video, by its packets; None if they have no timestamps. Then the rate gives the times of frames.

    Raises:
        ValueError: as `decode_pyav_range`. Exception: any error of PyAV.
    """
    if timeline is not None:
        try:
            frames = _Decoded(path, part, timeline).in_range()
            if len(set(frames.timestamps)) == len(frames.timestamps):
                return frames
        except WrongTimestamps:
            pass
    with open_video(path) as (_, stream):
        rate = stream_rate(stream)
    if rate is None:
        raise ValueError("the video has neither timestamps nor a frame rate, so no time range of it can be found")
    return _Decoded(path, part, Timeline(0, 1 / rate, rate), is_counted=True).in_range()


class _Decoded:
    """The timestamps of the frames from a place in a file to the end of a range, by decoding them.

    entry: the timestamp to seek to; None for the start of the file.
    is_counted: the timestamp of a frame is its number.

    Raises:
        WrongTimestamps: there is no frame, or one has no timestamp. Exception: any error of PyAV.
    """

    def __init__(
        self, path: str, part: TimeRange, timeline: Timeline, entry: int | None = None, is_counted: bool = False
    ) -> None:
        import av

        self._path, self._part, self._timeline = path, part, timeline
        self._is_damaged = False
        self._behind = 0  # frames in a row that are behind the range
        self.timestamps: list[int] = []
        """In the order of decoding."""
        with open_video(path) as (container, stream):
            if entry is not None:
                container.seek(entry, stream=stream)
            try:
                for number, frame in enumerate(container.decode(stream)):
                    self._add(number if is_counted else frame.pts)
                    if self._behind == FRAMES_BEHIND:
                        break
            except av.FFmpegError as error:
                if not self.timestamps or not is_damage(error):
                    raise
                self._is_damaged = True
        if not self.timestamps:
            raise WrongTimestamps("the video has no frames")

    def _add(self, timestamp: int | None) -> None:
        if timestamp is None:
            raise WrongTimestamps("a frame has no timestamp")
        after = self._timeline.after(self._part)
        self.timestamps.append(timestamp)
        self._behind = self._behind + 1 if after is not None and timestamp >= after else 0

    def in_range(self) -> RangeFrames:
        """The frames of the range.

        Raises:
            ValueError: it begins after the end of the video.
        """
        has_ended = self._behind > 0
        is_damaged = not has_ended and (self._is_damaged or is_incomplete(self._path))
        return frames_in(self._timeline, self._part, sorted(self.timestamps), has_ended, is_damaged)
