"""Decode videos with PyAV (FFmpeg), the only decoder where decord has no package, for example on aarch64.

The packets are counted first, without decoding, because headers may give a wrong number of frames. The timestamps of
the packets show where each frame is. So decoding can seek to the key frame before a wanted frame, instead of decoding
all frames before it. If timestamps are missing or wrong, the clip is decoded from its start. Knows nothing about other
decoders.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .frames import Collect, Frames, SampledFrames, check_size, distinct_frames, known_rate, scaled_down
from .sampling import FrameSampling


@dataclass(frozen=True)
class _Packets:
    """What is known about the frames of a video stream from its packets, without decoding.

    count: number of frames that are shown.
    timestamps: presentation timestamps of these frames, sorted, in the stream's time base. Empty if any is missing, or
        if two are equal.
    key_timestamps: those of the key frames, at which decoding can start. Empty where `timestamps` is.
    is_damaged: reading ended with an error. The other fields describe the packets before it.
    rate: average number of frames per second; 0.0 if it is unknown.
    """

    count: int
    timestamps: Sequence[int]
    key_timestamps: Sequence[int]
    is_damaged: bool
    rate: float


@dataclass(frozen=True)
class VideoInfo:
    """Size and length of a video.

    num_frames: number of frames that are shown.
    height, width: size of a frame in pixels, in display orientation.
    fps: average number of frames per second.
    duration: seconds, the duration of the last frame included.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    duration: float


class _EndedEarly(ValueError):
    """Decoding gave fewer frames than there are packets.

    frames: number of decoded frames.
    is_damaged: decoding ended with an error.
    """

    def __init__(self, frames: int, is_damaged: bool) -> None:
        super().__init__(f"the video ended after {frames} frames")
        self.frames = frames
        self.is_damaged = is_damaged


class _WrongTimestamps(Exception):
    """After seeking, no decoded frame has the timestamp of the wanted packet."""


def decode_pyav(path: str, sampling: FrameSampling, short_side: int, collect: Collect[Frames]) -> SampledFrames[Frames]:
    """Sample frames of a video.

    If the video is incomplete or damaged, the frames are spread over the part before the damage.

    short_side: larger frames are scaled so that their shorter side has this many pixels; 0 for no scaling.
    collect: gets the scaled frames.

    Raises:
        ValueError: the file has no video stream or no frames, or the frames are too large; or `sampling` needs a frame
            rate, and the file has none.
        Exception: any error of PyAV.
    """
    packets = _read_packets(path)
    positions = sampling.indices(packets.count, packets.rate)
    try:
        images = _decode_images(path, packets, distinct_frames(positions)[0], short_side, collect)
        return SampledFrames(images, tuple(positions), packets.rate, packets.count, packets.is_damaged)
    except _EndedEarly as ended:  # some packets have no picture: the number of decoded frames is the right one
        positions = sampling.indices(ended.frames, packets.rate)
        frames = _decode_from_start(path, distinct_frames(positions)[0])
        images = collect(scaled_down(frame, short_side) for frame in frames)
        is_damaged = packets.is_damaged or ended.is_damaged
        return SampledFrames(images, tuple(positions), packets.rate, ended.frames, is_damaged)


def _decode_images(
    path: str, packets: _Packets, wanted: Sequence[int], short_side: int, collect: Collect[Frames]
) -> Frames:
    """The frames with the numbers `wanted` (ascending), scaled and collected.

    Raises:
        _EndedEarly: the last of them was not reached.
    """
    if _can_skip_frames(packets, wanted):
        try:
            return collect(scaled_down(frame, short_side) for frame in _decode_by_seeking(path, packets, wanted))
        except Exception:  # seeking may fail in any way; decoding from the start does not depend on timestamps
            pass
    return collect(scaled_down(frame, short_side) for frame in _decode_from_start(path, wanted))


def video_info(path: str) -> VideoInfo:
    """Read the size and the length of a video. Decodes its first frame only.

    Raises:
        ValueError: the file has no video stream, no frames or no frame rate, or the frames are too large.
        Exception: any error of PyAV.
    """
    packets = _read_packets(path)
    if not packets.count:
        raise ValueError("the video has no frames")
    with _open_video(path) as (container, stream):
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise ValueError("the video has no frames")
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise ValueError("the video has no frame rate")
        fps = float(rate)
        width, height = (first.height, first.width) if first.rotation % 180 else (first.width, first.height)
        duration = _span_seconds(packets, stream) + 1 / fps if packets.timestamps else packets.count / fps
    return VideoInfo(packets.count, height, width, fps, duration)


def _span_seconds(packets: _Packets, stream: Any) -> float:
    """Seconds from the first frame to the last."""
    if len(packets.timestamps) < 2:
        return 0.0
    return float((packets.timestamps[-1] - packets.timestamps[0]) * stream.time_base)


def _read_packets(path: str) -> _Packets:
    import av

    shown = []
    is_damaged = False
    with _open_video(path) as (container, stream):
        rate = known_rate(stream.average_rate or stream.guessed_rate)
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    shown.append((packet.pts, packet.is_keyframe))
        except av.FFmpegError as error:
            if not shown or not _is_damage(error):
                raise
            is_damaged = True
    timestamps = {timestamp for timestamp, _ in shown}
    if None in timestamps or len(timestamps) < len(shown):
        return _Packets(len(shown), (), (), is_damaged, rate)
    key_timestamps = sorted(timestamp for timestamp, is_key in shown if is_key)
    return _Packets(len(shown), sorted(timestamps), key_timestamps, is_damaged, rate)


def _can_skip_frames(packets: _Packets, wanted: Sequence[int]) -> bool:
    """Whether there is a key frame to seek to between the start and the first wanted frame, or between two of them."""
    if not packets.timestamps:
        return False
    stops = [packets.timestamps[number] for number in (0, *wanted)]
    return any(
        bisect_right(packets.key_timestamps, before) < bisect_right(packets.key_timestamps, after)
        for before, after in itertools.pairwise(stops)
    )


def _decode_by_seeking(path: str, packets: _Packets, wanted: Sequence[int]) -> Iterator[Image.Image]:
    """The frames with the numbers `wanted` (ascending), found by their timestamps.

    Raises:
        _WrongTimestamps: a frame is not found. Seeking may also raise any error of PyAV.
    """
    with _open_video(path) as (container, stream):
        frames = container.decode(stream)
        position = packets.timestamps[0]
        for number in wanted:
            timestamp = packets.timestamps[number]
            keys_before = bisect_right(packets.key_timestamps, timestamp)
            if keys_before and packets.key_timestamps[keys_before - 1] > position:
                container.seek(packets.key_timestamps[keys_before - 1], stream=stream)
                frames = container.decode(stream)
            frame = next((frame for frame in frames if frame.pts is None or frame.pts >= timestamp), None)
            if frame is None or frame.pts != timestamp:
                raise _WrongTimestamps
            position = timestamp
            yield _upright(frame)


def _decode_from_start(path: str, wanted: Sequence[int]) -> Iterator[Image.Image]:
    """The frames with the numbers `wanted` (ascending), counted from the start.

    Raises:
        _EndedEarly: the last of them was not reached.
    """
    import av

    remaining = iter(wanted)
    next_wanted = next(remaining)
    number = -1
    with _open_video(path) as (container, stream):
        frames = enumerate(container.decode(stream))
        while True:
            try:
                number, frame = next(frames)
            except StopIteration:
                raise _EndedEarly(number + 1, is_damaged=False) from None
            except av.FFmpegError as error:
                if number < 0 or not _is_damage(error):
                    raise
                raise _EndedEarly(number + 1, is_damaged=True) from error
            if number == next_wanted:
                yield _upright(frame)
                next_wanted = next(remaining, -1)
                if next_wanted < 0:
                    return


def _is_damage(error: Exception) -> bool:
    """Whether the data of the file is damaged. After an error of the disk, a later run may read the whole file."""
    # BlockingIOError is FFmpeg's "try again": the file ends too early.
    return not isinstance(error, OSError) or isinstance(error, BlockingIOError)


@contextmanager
def _open_video(path: str) -> Iterator[tuple[Any, Any]]:
    import av

    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.best("video") or container.streams.video[0]
        stream.thread_count = 1  # several processes decode clips in parallel already
        check_size(stream.width, stream.height)
        yield container, stream


_TRANSPOSE = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def _upright(frame: Any) -> Image.Image:
    check_size(frame.width, frame.height)
    image: Image.Image = frame.to_image()
    # PyAV does not rotate frames. It gives the angle of the display matrix in degrees, counterclockwise.
    transpose = _TRANSPOSE.get(round(frame.rotation) % 360)
    return image if transpose is None else image.transpose(transpose)
