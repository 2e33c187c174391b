"""Decoding: from a path to the sampled frames of a clip, as PIL images in display orientation.

Decoders are tried in order, decord where it is installed, then PyAV; still images go to PIL. If all
fail, the error keeps every message. Knows no model; runs in a process of its own (`loader`), for a
decoder may hang or crash.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, ImageOps

from .sampling import frame_indices

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_CPP_LOCATION = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")

MAX_PIXELS = 64 * 2**20
"""Frames beyond this many pixels are refused: no camera makes them, and they would take gigabytes."""


class DecodeError(Exception):
    """A clip can't be decoded. `messages` holds what every decoder said."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("; ".join(messages))
        self.messages = tuple(messages)


@dataclass(frozen=True)
class SampledFrames:
    """The frames that a model sees.

    images: distinct frames in time order, RGB.
    index: for each sampled frame, in time order, its place in `images`; a still image or a short
        clip has fewer images than sampled frames.
    """

    images: tuple[Image.Image, ...]
    index: tuple[int, ...]


def check_path(path: str) -> None:
    """Refuse what no decoder should be let loose on.

    Raises:
        DecodeError: empty or missing path, not a regular file, zero bytes.
    """
    if not path.strip():
        raise DecodeError(["the path is empty"])
    if "\0" in path:
        raise DecodeError(["the path holds a NUL character"])
    try:
        status = os.stat(path)
    except FileNotFoundError:
        hint = "" if os.path.isabs(path) else f" (relative to {os.getcwd()})"
        raise DecodeError([f"no such file{hint}"]) from None
    except OSError as error:
        raise DecodeError([f"{error.strerror}"]) from error
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(["not a regular file"])
    if status.st_size == 0:
        raise DecodeError(["the file is empty (0 bytes)"])


def decode(path: str, num_frames: int, decoders: Sequence[str] | None = None) -> SampledFrames:
    """Sample `num_frames` frames of a video, or of a still image (one frame, repeated).

    decoders: names out of `available_decoders(path)`, tried in order; all of them by default.

    Raises:
        DecodeError: no decoder could.
    """
    check_path(path)
    messages = []
    for name in available_decoders(path) if decoders is None else decoders:
        try:
            return _DECODERS[name](path, num_frames)
        except Exception as error:  # decoders raise whatever they like; every message is kept
            messages.append(f"{name}: {_one_line(error)}")
    raise DecodeError(messages or ["no decoder left to try"])


def available_decoders(path: str) -> tuple[str, ...]:
    """Decoders to try on `path`, in order."""
    if path.lower().endswith(IMAGE_SUFFIXES):
        return ("PIL",)
    return ("decord", "PyAV") if _has_decord() else ("PyAV",)


def _has_decord() -> bool:
    import importlib.util

    return importlib.util.find_spec("decord") is not None


def _one_line(error: Exception) -> str:
    # The first line says it; decord appends its C++ stack, and puts times and source lines before it.
    text = _CPP_LOCATION.sub("", str(error).strip().split("\n")[0])
    return text[:300] or type(error).__name__


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"frames of {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ValueError(f"frames of {width}x{height} pixels are beyond {MAX_PIXELS // 2**20} megapixels")


def _decode_decord(path: str, num_frames: int) -> SampledFrames:
    import decord

    decord.logging.set_level(decord.logging.FATAL)
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    distinct, index = _distinct(frame_indices(len(reader), num_frames))
    images = []
    for position in distinct:
        frame = reader[position].asnumpy()
        _check_size(frame.shape[1], frame.shape[0])
        images.append(Image.fromarray(frame))
    return SampledFrames(tuple(images), index)


def _decode_pyav(path: str, num_frames: int) -> SampledFrames:
    counted = _pyav_packet_count(path)
    try:
        return _pyav_sample(path, frame_indices(counted, num_frames))
    except _EndedEarly as ended:  # packets without a picture: what was decoded is the truth
        return _pyav_sample(path, frame_indices(ended.frames, num_frames))


class _EndedEarly(ValueError):
    def __init__(self, frames: int) -> None:
        super().__init__(f"the video ended after {frames} frames")
        self.frames = frames


def _pyav_sample(path: str, indices: Sequence[int]) -> SampledFrames:
    distinct, index = _distinct(indices)
    images: list[Image.Image] = []
    number = 0
    with _pyav_stream(path) as (container, stream):
        for frame in container.decode(stream):
            if number == distinct[len(images)]:
                _check_size(frame.width, frame.height)
                images.append(_upright(frame))
                if len(images) == len(distinct):
                    return SampledFrames(tuple(images), index)
            number += 1
    raise _EndedEarly(number)


def _pyav_packet_count(path: str) -> int:
    """Number of frames shown, from the packets; what the header says is often wrong."""
    with _pyav_stream(path) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)


@contextmanager
def _pyav_stream(path: str):  # type: ignore[no-untyped-def]  # av is imported late
    import av

    with av.open(path) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.best("video") or container.streams.video[0]
        stream.thread_type = "AUTO"
        _check_size(stream.width, stream.height)
        yield container, stream


_TRANSPOSE = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def _upright(frame) -> Image.Image:  # type: ignore[no-untyped-def]  # av.VideoFrame
    image = frame.to_image()
    # PyAV gives the display matrix's angle, counterclockwise, and leaves turning to its user.
    turn = _TRANSPOSE.get(round(frame.rotation) % 360)
    return image if turn is None else image.transpose(turn)


def _decode_image(path: str, num_frames: int) -> SampledFrames:
    with Image.open(path) as image:
        _check_size(*image.size)
        upright = ImageOps.exif_transpose(image)
        return SampledFrames((upright.convert("RGB"),), (0,) * num_frames)


def _distinct(indices: Sequence[int]) -> tuple[list[int], tuple[int, ...]]:
    distinct = list(dict.fromkeys(indices))
    return distinct, tuple(distinct.index(i) for i in indices)


_DECODERS: dict[str, Callable[[str, int], SampledFrames]] = {
    "decord": _decode_decord,
    "PyAV": _decode_pyav,
    "PIL": _decode_image,
}
