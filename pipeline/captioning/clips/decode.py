"""Decode a clip: from its path to its sampled frames, PIL images in display orientation.

Decoders are tried in order: decord if it is installed, then PyAV; for ranges of videos PyAV; for images PIL. If all of
them fail, the error contains every message. In a run, this runs in the decoding process, because a decoder may hang or
crash. Knows nothing about processes and models.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from .content import playlist_in, text_at_start
from .decode_pil import decode_pil
from .decode_pyav import decode_pyav
from .decode_pyav_range import decode_pyav_range
from .file_kind import file_kind
from .frames import Collect, Frames, SampledFrames, check_size, distinct_frames, known_rate, scaled_down
from .incomplete import is_incomplete
from .media import file_name, names_image
from .sampling import FrameSampling
from .time_range import TimeRange

_CPP_LOCATION = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")


class DecodeError(Exception):
    """A clip can't be decoded.

    messages: one for each decoder that failed, or the one that `check_path` raised; at least one.
    is_final: no other decoder needs to be tried: the content of the file shows which one fits, or that none does.
    """

    def __init__(self, messages: Sequence[str], is_final: bool = False) -> None:
        super().__init__("; ".join(messages))
        self.messages = tuple(messages)
        self.is_final = is_final


def check_path(path: str) -> None:
    """Check a path before a decoder opens it.

    Raises:
        DecodeError: the path is empty or contains a NUL character; the file is missing, not regular or empty.
    """
    if not path.strip():
        raise DecodeError(["the path is empty"])
    if "\0" in path:
        raise DecodeError(["the path contains a NUL character"])
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


def decode(
    path: str,
    sampling: FrameSampling,
    decoders: Sequence[str] | None = None,
    short_side: int = 0,
    part: TimeRange | None = None,
) -> SampledFrames[tuple[Image.Image, ...]]:
    """Sample frames of a video or an image; see `decode_into`. All images are kept in memory."""
    return decode_into(tuple, path, sampling, decoders, short_side, part=part)


def decode_into(
    collect: Collect[Frames],
    path: str,
    sampling: FrameSampling,
    decoders: Sequence[str] | None = None,
    short_side: int = 0,
    collect_image: Collect[Frames] | None = None,
    named: str = "",
    part: TimeRange | None = None,
) -> SampledFrames[Frames]:
    """Sample frames of a video or an animated image, or read a still image, and give them to `collect` one by one.

    If a video is incomplete or damaged, its frames are spread over the part that can be decoded, and the result is
    marked as partial. A still image has one frame, whatever the sampling; an incomplete one fails, and so does a range.

    collect: gets the frames and returns `SampledFrames.images`. An error that it raises counts as one of the decoder.
    decoders: names from `available_decoders(path, part)`, tried in order; all of them by default. If the file is an
        image with the name of a video, PIL takes the place of the first one, and the others do nothing; and the
        reverse.
    short_side: larger frames are scaled so that their shorter side has this many pixels; 0 for no scaling.
    collect_image: gets the frame of a still image; None for `collect`.
    named: the path or URL by whose suffix the file is known, if it is not `path`.
    part: the range of the file to sample, as if it were a file of its own; None for the whole file.

    Raises:
        DecodeError: no decoder can decode it, it is a playlist, or it has no frames in the range.
    """
    if part is not None and part.problem:
        raise DecodeError([part.problem], is_final=True)
    check_path(path)
    named = named or path
    decoders = available_decoders(named, part) if decoders is None else decoders
    kind = kind_of(path, named)
    fitting = _fitting(kind, available_decoders(named, part), decoders)
    messages = []
    for name in fitting:
        try:
            if name == "PIL":
                return decode_pil(path, sampling, short_side, collect, collect_image or collect, part)
            if part is not None:
                return decode_pyav_range(path, part, sampling, short_side, collect)
            sampled: SampledFrames[Frames] = _VIDEO_DECODERS[name](path, sampling, short_side, collect)
            return replace(sampled, partial=True) if is_incomplete(path) else sampled
        except Exception as error:  # decoders raise errors of any type
            messages.append(f"{name}: {_one_line(error)}")
    if not messages:
        what = f"content of {'an image' if kind == 'image' else 'a video'}" if kind else "name of another kind of file"
        messages = [f"{', '.join(decoders)}: not tried, because the file has the {what}"]
    raise DecodeError(messages, is_final=fitting is not decoders)


def available_decoders(path: str, part: TimeRange | None = None) -> tuple[str, ...]:
    """The names of the decoders for `path` by its suffix, in the order in which they are tried.

    part: the range of the file that is decoded; None for the whole file.
    """
    if names_image(path):
        return ("PIL",)
    # decord reads the packets of the whole file when it opens it.
    return ("decord", "PyAV") if part is None and _has_decord() else ("PyAV",)


def kind_of(path: str, named: str) -> str:
    """`image` or `video` by the content of the file; empty if that is unknown, or if the file can't be read.

    named: the path or URL by whose suffix the file is known.

    Raises:
        DecodeError: it is a playlist.
    """
    try:
        kind = file_kind(path, file_name(named))
        playlist = playlist_in(text_at_start(path))  # of any kind: a playlist can begin as a video does
    except OSError:  # the decoders have the message
        return ""
    if playlist:
        raise DecodeError([f"the file is {playlist}, not a clip; what it refers to is not opened"], is_final=True)
    return kind


def _fitting(kind: str, by_suffix: Sequence[str], decoders: Sequence[str]) -> Sequence[str]:
    """`decoders`, or others in place of the first one if the content of the file does not fit its suffix.

    The process that asks for one decoder after the other knows the suffix only, and gets one message.
    """
    # FFmpeg reads images too, but without their transparency, and it completes truncated ones.
    fitting = {"image": "PIL", "video": "PyAV"}.get(kind, by_suffix[0])
    if all((name == "PIL") == (fitting == "PIL") for name in decoders):
        return decoders
    return (fitting,) if by_suffix[0] in decoders else ()


def _has_decord() -> bool:
    import importlib.util

    return importlib.util.find_spec("decord") is not None


def _one_line(error: Exception) -> str:
    # decord puts a time and a source line before its message, and its C++ stack after the first line.
    text = _CPP_LOCATION.sub("", str(error).strip().split("\n")[0])
    return text[:300] or type(error).__name__


def _decode_decord(
    path: str, sampling: FrameSampling, short_side: int, collect: Collect[Frames]
) -> SampledFrames[Frames]:
    import decord

    decord.logging.set_level(decord.logging.FATAL)
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    total_frames, rate = len(reader), known_rate(reader.get_avg_fps())
    positions = sampling.indices(total_frames, rate)

    def images() -> Iterator[Image.Image]:
        for position in distinct_frames(positions)[0]:
            frame = reader[position].asnumpy()
            if frame.ndim != 3 or frame.shape[2] != 3:  # for some sizes, for example 72x128, it has a fourth channel
                raise ValueError(f"a frame has the shape {frame.shape}, not (height, width, 3)")
            check_size(frame.shape[1], frame.shape[0])
            yield scaled_down(Image.fromarray(frame), short_side)

    return SampledFrames(collect(images()), tuple(positions), rate, total_frames)


_VIDEO_DECODERS: dict[str, Callable[[str, FrameSampling, int, Collect[Any]], SampledFrames[Any]]] = {
    "decord": _decode_decord,
    "PyAV": decode_pyav,
}
