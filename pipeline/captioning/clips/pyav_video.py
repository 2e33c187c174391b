"""Read a video file with PyAV (FFmpeg): open it, its packets, and the frames that are wanted.

The timestamps of the packets show where each frame is. So decoding can seek to the key frame before a wanted frame,
instead of decoding all frames before it. Knows nothing about which frames are wanted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from PIL import Image

from .frames import check_size


class Packet(NamedTuple):
    """A packet of a frame that is shown. Timestamps are in the stream's time base; None if they are missing."""

    pts: int | None
    dts: int | None
    is_key: bool


class EndedEarly(ValueError):
    """Decoding gave fewer frames than there are packets.

    frames: number of decoded frames.
    is_damaged: decoding ended with an error.
    """

    def __init__(self, frames: int, is_damaged: bool) -> None:
        super().__init__(f"the video ended after {frames} frames")
        self.frames = frames
        self.is_damaged = is_damaged


class WrongTimestamps(Exception):
    """No decoded frame has the timestamp of the wanted packet."""


def shown_packets(container: Any, stream: Any) -> Iterator[Packet]:
    """The packets of the frames that are shown, from the present position on, in the order in which they are decoded.

    Raises:
        Exception: any error of PyAV; `is_damage` tells damage of the file.
    """
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:
            yield Packet(packet.pts, packet.dts, packet.is_keyframe)


def decode_by_seeking(
    path: str, wanted: Sequence[int], key_timestamps: Sequence[int], begin: int
) -> Iterator[Image.Image]:
    """The frames with the timestamps `wanted` (ascending).

    key_timestamps: where decoding can start, ascending; none to decode from the start of the file.
    begin: timestamp of the first frame of the file.

    Raises:
        WrongTimestamps: a frame is not found. Seeking may also raise any error of PyAV.
    """
    with open_video(path) as (container, stream):
        frames = container.decode(stream)
        position = begin
        for timestamp in wanted:
            keys_before = bisect_right(key_timestamps, timestamp)
            if keys_before and key_timestamps[keys_before - 1] > position:
                container.seek(key_timestamps[keys_before - 1], stream=stream)
                frames = container.decode(stream)
            frame = next((frame for frame in frames if frame.pts is None or frame.pts >= timestamp), None)
            if frame is None or frame.pts != timestamp:
                raise WrongTimestamps(f"no frame has the timestamp {timestamp}")
            position = timestamp
            yield upright(frame)


def decode_from_start(path: str, wanted: Sequence[int]) -> Iterator[Image.Image]:
    """The frames with the numbers `wanted` (ascending), counted from the start.

    Raises:
        EndedEarly: the last of them was not reached.
    """
    import av

    remaining = iter(wanted)
    next_wanted = next(remaining)
    number = -1
    with open_video(path) as (container, stream):
        frames = enumerate(container.decode(stream))
        while True:
            try:
                number, frame = next(frames)
            except StopIteration:
                raise EndedEarly(number + 1, is_damaged=False) from None
            except av.FFmpegError as error:
                if number < 0 or not is_damage(error):
                    raise
                raise EndedEarly(number + 1, is_damaged=True) from error
            if number == next_wanted:
                yield upright(frame)
                next_wanted = next(remaining, -1)
                if next_wanted < 0:
                    return


def is_damage(error: Exception) -> bool:
    """Whether the data of the file is damaged. After an error of the disk, a later run may read the whole file."""
    # BlockingIOError is FFmpeg's "try again": the file ends too early.
    return not isinstance(error, OSError) or isinstance(error, BlockingIOError)


@contextmanager
def open_video(path: str) -> Iterator[tuple[Any, Any]]:
    """Open a file. Gives its container and its best video stream.

    Raises:
        ValueError: the file has no video stream, or the frames are too large.
        Exception: any error of PyAV.
    """
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


def upright(frame: Any) -> Image.Image:
    """A decoded frame as an RGB image in display orientation."""
    check_size(frame.width, frame.height)
    image: Image.Image = frame.to_image()
    # PyAV does not rotate frames. It gives the angle of the display matrix in degrees, counterclockwise.
    transpose = _TRANSPOSE.get(round(frame.rotation) % 360)
    return image if transpose is None else image.transpose(transpose)
