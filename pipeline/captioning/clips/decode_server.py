"""Handle a request of the worker: decode one clip and prepare its frames. Runs in the decoding process.

If files are sent, the file of a video is read, and not decoded. Each frame is prepared as soon as it is decoded: all
frames of a clip in full size may be larger than the memory (64 of 3840x2160 pixels are 1.6 GB). The worker uses the
types of the messages. This file imports no framework and knows nothing about how the process is started, limited and
killed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .decode import DecodeError, check_path, decode_into, kind_of
from .frame_memory import FrameMemory, FramesInMemory
from .preparation import FramePreparation, FrameTransform, ImageRole
from .sampling import FrameSampling
from .time_range import TimeRange
from .video_file import is_video, read_video_file

_WHOLE_FILES_ONLY = "the service gets whole files with --send video; use --send images, or --whole_files"


@dataclass(frozen=True)
class DecodeRequest:
    """From the worker to the decoding process: the path of a clip and the name of one decoder.

    decoder: not used if files are sent (`FramePreparation.sends_file`).
    named: the URL of the clip, if `path` is the file into which it was downloaded. Its suffix tells an image from a
        video.
    part: the range of the file that is the clip; None for the whole file.
    sampling: which frames are sampled; None for the sampling of the preparation.
    image_role: how the file is prepared if it is a still image.
    """

    path: str
    decoder: str
    named: str = ""
    part: TimeRange | None = None
    sampling: FrameSampling | None = None
    image_role: ImageRole = ImageRole.ALONE


@dataclass(frozen=True)
class DecodeReply:
    """From the decoding process to the worker: prepared frames, or the reason why there are none.

    frames: shape and dtype of the prepared frames, which are in the FrameMemory; None if a stage failed.
    frame_index, partial, seconds, duration, size, rate, is_image, mime_type: as in `Clip`.
    stage, messages: the stage that failed and every message; empty if none failed.
    is_final: no other decoder needs to be tried.
    """

    frames: FramesInMemory | None = None
    frame_index: tuple[int, ...] = ()
    partial: bool = False
    seconds: tuple[float, ...] = ()
    duration: float = 0.0
    size: tuple[int, int] = (0, 0)
    rate: float = 0.0
    is_image: bool = False
    mime_type: str = ""
    stage: str = ""
    messages: tuple[str, ...] = ()
    is_final: bool = False


def handle_request(request: DecodeRequest, memory: FrameMemory, preparation: FramePreparation) -> DecodeReply:
    """Decode one clip with one decoder, and write the prepared frames, or the file of a video, into `memory`."""
    try:
        check_path(request.path)
    except DecodeError as error:
        return DecodeReply(stage="path", messages=error.messages)
    named = request.named or request.path
    try:
        if not preparation.sends_file:
            return _decode(request, request.decoder, memory, preparation)
        if is_video(kind_of(request.path, named), named):
            if request.part is not None:
                return DecodeReply(stage="prepare", messages=(_WHOLE_FILES_ONLY,))
            return _read(request.path, named, memory)
        return _decode(request, "PIL", memory, preparation)
    except DecodeError as error:
        return DecodeReply(stage="decode", messages=error.messages, is_final=error.is_final)


def _read(path: str, named: str, memory: FrameMemory) -> DecodeReply:
    """Write the file of a video into `memory`.

    Raises:
        DecodeError: it is no video, or can't be read.
    """
    try:
        file = read_video_file(path, named)
        return DecodeReply(memory.put(file.data), partial=file.partial, mime_type=file.mime_type)
    except OSError as error:
        raise DecodeError([f"{error.strerror}"]) from error
    except (ValueError, MemoryError) as error:
        return DecodeReply(stage="prepare", messages=(str(error) or "no memory for the file",))


def _decode(request: DecodeRequest, decoder: str, memory: FrameMemory, preparation: FramePreparation) -> DecodeReply:
    """Decode a clip, and write the prepared frames into `memory`.

    Raises:
        DecodeError: the decoder can't decode it.
    """
    collect = functools.partial(_prepare, preparation.transform)
    collect_image = functools.partial(_prepare, preparation.transform_of_image(request.image_role))
    sampled = decode_into(
        collect,
        request.path,
        request.sampling or preparation.sampling,
        [decoder],
        preparation.short_side,
        collect_image,
        request.named,
        request.part,
    )
    prepared = sampled.images
    if prepared.problem:
        return DecodeReply(stage="prepare", messages=(prepared.problem,))
    try:
        frames = memory.put(np.concatenate(prepared.frames))
    except Exception as error:  # no memory, or frames of several shapes; only this clip fails
        return DecodeReply(stage="prepare", messages=(_message(error),))
    return DecodeReply(
        frames=frames,
        frame_index=sampled.index,
        partial=sampled.partial,
        seconds=sampled.seconds,
        duration=sampled.duration,
        size=prepared.size,
        rate=sampled.rate,
        is_image=sampled.is_image,
    )


@dataclass
class _Prepared:
    """Frames after their transform.

    frames: an array for each image; the first axis has length 1, except of transforms that make bytes.
    size: (height, width) in pixels of the first image.
    problem: the error of the transform; empty if there was none.
    """

    frames: list[np.ndarray] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    problem: str = ""


def _prepare(frame_transform: FrameTransform, images: Iterable[Image.Image]) -> _Prepared:
    """Transform images one by one. At most the first image and the present one are in memory.

    A transform with the attribute `takes_all_frames` gets all images at once, and returns one array for the clip. One
    with the attribute `makes_bytes` gets each image alone, whatever its size, and its array is kept whole.

    An error of the transform is returned, not raised: to a decoder it would look like an error of its own.
    """
    prepared = _Prepared()
    first: Image.Image | None = None
    together = getattr(frame_transform, "takes_all_frames", False)
    is_whole = together or getattr(frame_transform, "makes_bytes", False)
    groups: Iterable[list[Image.Image]] = [list(images)] if together else ([image] for image in images)
    for group in groups:
        if first is None:
            first, prepared.size = group[0], (group[0].height, group[0].width)
        # The size may change within a video, and a transform may choose one size for all by the first image.
        has_size_of_first = is_whole or group[0].size == first.size
        try:
            frames = frame_transform(group if has_size_of_first else [first, *group])
        except Exception as error:  # a transform may raise any error
            prepared.problem = _message(error)
            return prepared
        prepared.frames.append(frames if is_whole else frames[-1:])
    return prepared


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
