"""Decode videos with PyAV (FFmpeg), the only decoder where decord has no package, for example on aarch64.

The packets are counted first, without decoding, because headers may give a wrong number of frames. The timestamps of
the packets show where each frame is. So decoding can seek to the key frame before a wanted frame, instead of decoding
all frames before it. If timestamps are missing or wrong, the clip is decoded from its start. Knows nothing about other
decoders.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .frames import Collect, Frames, SampledFrames, distinct_frames, known_rate, scaled_down
from .pyav_video import EndedEarly, Packet, decode_by_seeking, decode_from_start, is_damage, open_video, shown_packets
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
    packets = read_packets(path)
    positions = sampling.indices(packets.count, packets.rate)
    try:
        images = _decode_images(path, packets, distinct_frames(positions)[0], short_side, collect)
        return SampledFrames(images, tuple(positions), packets.rate, packets.count, packets.is_damaged)
    except EndedEarly as ended:  # some packets have no picture: the number of decoded frames is the right one
        positions = sampling.indices(ended.frames, packets.rate)
        frames = decode_from_start(path, distinct_frames(positions)[0])
        images = collect(scaled_down(frame, short_side) for frame in frames)
        is_damaged = packets.is_damaged or ended.is_damaged
        return SampledFrames(images, tuple(positions), packets.rate, ended.frames, is_damaged)


def _decode_images(
    path: str, packets: _Packets, wanted: Sequence[int], short_side: int, collect: Collect[Frames]
) -> Frames:
    """The frames with the numbers `wanted` (ascending), scaled and collected.

    Raises:
        EndedEarly: the last of them was not reached.
    """
    if _can_skip_frames(packets, wanted):
        try:
            timestamps = [packets.timestamps[number] for number in wanted]
            images = decode_by_seeking(path, timestamps, packets.key_timestamps, packets.timestamps[0])
            return collect(scaled_down(image, short_side) for image in images)
        except Exception:  # seeking may fail in any way; decoding from the start does not depend on timestamps
            pass
    return collect(scaled_down(frame, short_side) for frame in decode_from_start(path, wanted))


def video_info(path: str) -> VideoInfo:
    """Read the size and the length of a video. Decodes its first frame only.

    Raises:
        ValueError: the file has no video stream, no frames or no frame rate, or the frames are too large.
        Exception: any error of PyAV.
    """
    packets = read_packets(path)
    if not packets.count:
        raise ValueError("the video has no frames")
    with open_video(path) as (container, stream):
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


def read_packets(path: str) -> _Packets:
    import av

    shown: list[Packet] = []
    is_damaged = False
    with open_video(path) as (container, stream):
        rate = known_rate(stream.average_rate or stream.guessed_rate)
        try:
            for packet in shown_packets(container, stream):
                shown.append(packet)
        except av.FFmpegError as error:
            if not shown or not is_damage(error):
                raise
            is_damaged = True
    timestamps = {packet.pts for packet in shown if packet.pts is not None}
    if len(timestamps) < len(shown):
        return _Packets(len(shown), (), (), is_damaged, rate)
    key_timestamps = sorted(packet.pts for packet in shown if packet.is_key and packet.pts is not None)
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
