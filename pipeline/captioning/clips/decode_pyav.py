"""Decoding with PyAV (FFmpeg), the only decoder where decord has no package, as on aarch64.

The packets are counted first, without decoding: headers lie about the number of frames. Their times also say
which frame comes when, so that decoding jumps over stretches that nobody wants to see, from key frame to key
frame. Where times are missing or deceive, the clip is decoded from its start.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .frames import SampledFrames, check_size, distinct_frames
from .sampling import frame_indices


@dataclass(frozen=True)
class _Packets:
    """What the packets of a video stream tell without being decoded.

    count: frames shown.
    times: presentation times of the frames in order, in the stream's time base; empty if not all differ.
    keys: those of the frames at which decoding can start.
    is_broken: reading ended with an error; what came before it counts.
    """

    count: int
    times: Sequence[int]
    keys: Sequence[int]
    is_broken: bool


@dataclass(frozen=True)
class VideoInfo:
    """What there is to know of a video without decoding more than its first frame.

    num_frames: frames shown. height, width: pixels of a frame as it is shown, turned upright.
    fps: average frames a second. duration: seconds, that of the last frame included.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    duration: float


class _EndedEarly(ValueError):
    """Fewer frames than packets. is_broken: decoding ended with an error."""

    def __init__(self, frames: int, is_broken: bool) -> None:
        super().__init__(f"the video ended after {frames} frames")
        self.frames = frames
        self.is_broken = is_broken


class _TimesDeceive(Exception):
    """A frame is not where its packet said."""


def decode_pyav(path: str, num_frames: int) -> SampledFrames:
    """Sample `num_frames` frames. Raises whatever PyAV raises, ValueError for videos without frames.

    The frames of a video that breaks off are spread over what comes before the break.
    """
    packets = _read_packets(path)
    distinct, index = distinct_frames(frame_indices(packets.count, num_frames))
    if _skips_something(packets, distinct):
        try:
            return SampledFrames(tuple(_jump(path, packets, distinct)), index, packets.is_broken)
        except Exception:  # whatever jumping may raise: decoding from the start has the last word
            pass
    try:
        return SampledFrames(tuple(_walk(path, distinct)), index, packets.is_broken)
    except _EndedEarly as ended:  # packets without a picture: what was decoded is the truth
        distinct, index = distinct_frames(frame_indices(ended.frames, num_frames))
        return SampledFrames(tuple(_walk(path, distinct)), index, packets.is_broken or ended.is_broken)


def video_info(path: str) -> VideoInfo:
    """Look at a video. Raises whatever PyAV raises, ValueError for videos without frames."""
    packets = _read_packets(path)
    if not packets.count:
        raise ValueError("the video has no frames")
    with _opened(path) as (container, stream):
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise ValueError("the video has no frames")
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise ValueError("the video has no frame rate")
        fps = float(rate)
        width, height = (first.height, first.width) if first.rotation % 180 else (first.width, first.height)
        duration = _span(packets, stream) + 1 / fps if packets.times else packets.count / fps
    return VideoInfo(packets.count, height, width, fps, duration)


def _span(packets: _Packets, stream: Any) -> float:
    """Seconds from the first frame to the last."""
    if len(packets.times) < 2:
        return 0.0
    return float((packets.times[-1] - packets.times[0]) * stream.time_base)


def _read_packets(path: str) -> _Packets:
    import av

    shown = []
    is_broken = False
    with _opened(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    shown.append((packet.pts, packet.is_keyframe))
        except av.FFmpegError as error:
            if not shown or not _is_damage(error):
                raise
            is_broken = True
    times = {time for time, _ in shown}
    if None in times or len(times) < len(shown):
        return _Packets(len(shown), (), (), is_broken)
    return _Packets(len(shown), sorted(times), sorted(time for time, is_key in shown if is_key), is_broken)


def _skips_something(packets: _Packets, wanted: Sequence[int]) -> bool:
    """Whether a key frame lies between the first frame, or a wanted one, and the next wanted one."""
    if not packets.times:
        return False
    stops = [packets.times[number] for number in (0, *wanted)]
    return any(
        bisect_right(packets.keys, before) < bisect_right(packets.keys, after)
        for before, after in itertools.pairwise(stops)
    )


def _jump(path: str, packets: _Packets, wanted: Sequence[int]) -> Iterator[Image.Image]:
    """The frames `wanted`, found by their times."""
    with _opened(path) as (container, stream):
        frames = container.decode(stream)
        position = packets.times[0]
        for number in wanted:
            time = packets.times[number]
            before = bisect_right(packets.keys, time)
            if before and packets.keys[before - 1] > position:
                container.seek(packets.keys[before - 1], stream=stream)
                frames = container.decode(stream)
            frame = next((frame for frame in frames if frame.pts is None or frame.pts >= time), None)
            if frame is None or frame.pts != time:
                raise _TimesDeceive
            position = time
            yield _upright(frame)


def _walk(path: str, wanted: Sequence[int]) -> Iterator[Image.Image]:
    """The frames `wanted`, counted from the start."""
    import av

    ahead = iter(wanted)
    next_wanted = next(ahead)
    number = -1
    with _opened(path) as (container, stream):
        frames = enumerate(container.decode(stream))
        while True:
            try:
                number, frame = next(frames)
            except StopIteration:
                raise _EndedEarly(number + 1, is_broken=False) from None
            except av.FFmpegError as error:
                if number < 0 or not _is_damage(error):
                    raise
                raise _EndedEarly(number + 1, is_broken=True) from error
            if number == next_wanted:
                yield _upright(frame)
                next_wanted = next(ahead, -1)
                if next_wanted < 0:
                    return


def _is_damage(error: Exception) -> bool:
    """Whether the file is damaged. A disk that fails is no property of the file: another run may read it whole."""
    # FFmpeg's "try again" comes from a file that ends where it should not.
    return not isinstance(error, OSError) or isinstance(error, BlockingIOError)


@contextmanager
def _opened(path: str) -> Iterator[tuple[Any, Any]]:
    import av

    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.best("video") or container.streams.video[0]
        stream.thread_count = 1  # clips are decoded side by side already
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
    # PyAV gives the display matrix's angle, counterclockwise, and leaves turning to its user.
    turn = _TRANSPOSE.get(round(frame.rotation) % 360)
    return image if turn is None else image.transpose(turn)
