"""What is sent of a clip: the content of a message, and the fields of its request. Knows nothing about the network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..captioning.captioners.api.frames import JpegFrames, jpegs
from ..captioning.captioners.api.options import IMAGES, VIDEO, Visuals
from ..captioning.captioners.api.requests import Content, clip_content, video_fields
from ..captioning.clips.clip import Clip
from ..captioning.clips.preparation import FramePreparation
from ..captioning.clips.sampling import FrameSampling

FRAMES, FILE = "frames", "file"
SEND = (FRAMES, IMAGES, FILE)
"""What is sent of a video: its frames as one video, its frames as images, or its file."""
FRAMES_URL = "data:video/jpeg;base64,"
"""Begins the data URL of a video that is given as JPEGs, in base64 and separated by commas. vLLM reads it, too."""


@dataclass(frozen=True)
class Message:
    """content: of the user's message. fields: further ones of the request. media_bytes: size of the data URLs."""

    content: Content
    fields: Mapping[str, Any]
    media_bytes: int


@dataclass(frozen=True)
class Sending:
    """How clips are sent.

    send: one of SEND. A still image is sent as an image in any case.
    max_side, quality: of the JPEGs, see `JpegFrames`.
    sampled_by_server: with FILE, `{"num_frames": 4}` or `{"fps": 1.0}`; empty leaves it to the server.
    """

    send: str = FRAMES
    max_side: int = Visuals.max_side
    quality: int = Visuals.quality
    sampled_by_server: Mapping[str, Any] = field(default_factory=dict)

    def preparation(self, sampling: FrameSampling) -> FramePreparation:
        """What the decoding processes do with each clip."""
        return FramePreparation(sampling, JpegFrames(self.max_side, self.quality), sends_file=self.send == FILE)

    def message(self, clip: Clip, question: str | None) -> Message:
        """The message about a clip. clip: prepared by `preparation`. question: None for the default of the server."""
        if clip.mime_type:
            visuals = Visuals(send=VIDEO, video_options=self.sampled_by_server)
            content = clip_content(question or "", [clip.frames.data], visuals, clip.mime_type)
            return _message(content, question, video_fields(visuals))
        frames = jpegs(clip.frames)
        if clip.is_image or self.send == IMAGES:
            return images_message(frames, question)
        # The frames that the model would see if it had the file: a short video has some of them several times.
        return frames_message([frames[index] for index in clip.frame_index], question, sampled_rate(clip.seconds))


def images_message(frames: Sequence[bytes], question: str | None) -> Message:
    """The message that contains JPEGs as images."""
    return _message(clip_content(question or "", frames, Visuals()), question, {})


def frames_message(frames: Sequence[bytes], question: str | None, rate: float = 0.0) -> Message:
    """The message that contains JPEGs as one video. rate: frames per second of these frames; 0.0 if it is unknown."""
    url = FRAMES_URL + ",".join(base64.b64encode(frame).decode("ascii") for frame in frames)
    parts: list[Mapping[str, Any]] = [
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "text", "text": question},
    ]
    return _message(parts, question, {"media_io_kwargs": {"video": {"fps": rate}}} if rate > 0 else {})


def sampled_rate(seconds: Sequence[float]) -> float:
    """Frames per second of sampled frames, from the time of each; 0.0 if it is unknown."""
    distinct = sorted(set(seconds))
    return (len(distinct) - 1) / (distinct[-1] - distinct[0]) if len(distinct) > 1 else 0.0


def _message(content: Content, question: str | None, fields: Mapping[str, Any]) -> Message:
    """content: media, then the question, which is left out if it is None."""
    assert not isinstance(content, str)
    media = content[:-1]
    size = sum(len(part[part["type"]]["url"]) for part in media)
    return Message(media if question is None else content, fields, size)
