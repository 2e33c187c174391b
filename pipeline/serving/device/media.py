"""The media of one question, as clips: a video, an image, several images, or frames that were sent as images.

Knows nothing about threads and about other questions.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...captioning.clips.clip import Clip
from ...captioning.clips.decode_client import DecodeClient
from ...captioning.clips.preparation import FramePreparation, ImageRole
from ...captioning.clips.sampling import FrameSampling
from ..messages import Ask

_WORDS_FOR_CLIENTS = (
    ("(--decode_timeout)", "(the server's time limit for decoding)"),
    ("(--download_timeout)", "(the server's time limit for downloads)"),
    ("--max_download ", "the server's limit of "),
    ("; set TMPDIR to another folder", ""),
)
"""Clients do not know the flags that messages of the decoding processes name."""


class MediaError(Exception):
    """The media of a question can't be used. messages: every reason, without local paths."""

    def __init__(self, *messages: str) -> None:
        super().__init__("; ".join(messages))
        self.messages = messages


def load_media(
    client: DecodeClient,
    preparation: FramePreparation,
    ask: Ask,
    stopping: threading.Event,
    images_are_frames: bool,
) -> tuple[Clip, ...]:
    """Decode and prepare the media of a question.

    preparation: that of `client`.
    stopping: set by another thread to end the call early; then an error is raised that nobody needs.
    images_are_frames: several images are the frames of one clip.

    Returns one clip of a video, an image or frames; or several of one still image each. The row is the question's id.

    Raises:
        MediaError: a file can't be downloaded, decoded or prepared, or the media do not go together.
        StartError: no decoding process can be started.
    """
    paths = ask.media
    as_frames = ask.are_frames or (len(paths) > 1 and images_are_frames)
    if as_frames:
        most = preparation.sampling.most_frames
        if len(paths) > most:
            raise MediaError(
                f"{len(paths)} images are the frames of one video, but at most {most} frames are accepted; "
                "send fewer of them"
            )
    role = ImageRole.FRAME if as_frames else ImageRole.ONE_OF_SEVERAL if len(paths) > 1 else ImageRole.ALONE
    clips = []
    for number, path in enumerate(paths, 1):
        name = "the file" if role is ImageRole.ALONE else f"image {number}"
        clip = _decoded(client, ask, path, name, stopping, role)
        if not clip.is_image and role is not ImageRole.ALONE:
            raise MediaError(f"{name} is a video or an animation; send one video alone, or still images")
        clips.append(clip)
    return (_joined(clips, ask.frame_rate, preparation.sampling),) if as_frames else tuple(clips)


def _decoded(client: DecodeClient, ask: Ask, path: str, name: str, stopping: threading.Event, role: ImageRole) -> Clip:
    """A decoded file.

    Raises:
        MediaError: it can't be decoded.
    """
    frames, reply = client.decode(path, stopping, sampling=ask.sampling, image_role=role)
    if frames is None:
        messages = reply.messages or (f"can't be loaded ({reply.stage})",)
        raise MediaError(*(f"{name}: {_for_clients(message, path)}" for message in messages))
    about = reply.partial, reply.seconds, reply.duration, reply.size, reply.rate, reply.is_image
    return Clip(ask.id, name, frames, reply.frame_index, *about)


def _for_clients(message: str, path: str) -> str:
    for words, replacement in _WORDS_FOR_CLIENTS:
        message = message.replace(words, replacement)
    return message.replace(path, "the file")


def _joined(images: Sequence[Clip], rate: float, sampling: FrameSampling) -> Clip:
    """One clip of frames, in the order of time. rate: frames per second; 0.0 if it is unknown.

    Raises:
        MediaError: the frames do not have the same size.
    """
    first, count = images[0], len(images)
    for number, image in enumerate(images, 1):
        if image.frames.shape != first.frames.shape:
            sizes = [f"{width}x{height}" for height, width in (first.size, image.size)]
            raise MediaError(
                f"image {number} has {sizes[1]} pixels and image 1 has {sizes[0]}; frames of one video must have the "
                "same size"
            )
    index = [*range(count)] + [count - 1] * (-count % sampling.multiple)
    return replace(
        first,
        path="the frames",
        frames=np.concatenate([image.frames for image in images]),
        frame_index=tuple(index),
        seconds=tuple(i / rate if rate else 0.0 for i in index),
        duration=count / rate if rate else 0.0,
        rate=rate,
        is_image=False,
    )
