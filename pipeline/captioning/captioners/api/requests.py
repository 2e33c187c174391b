"""A request to the service: its key, and its body in the form of chat completions.

Knows nothing about the network. A body is made anew for each try, so that no request keeps encoded frames in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .answer import NO_CLIP, AnsweredClip
from .options import Generation, Visuals

Content: TypeAlias = "str | Sequence[Mapping[str, Any]]"
"""The content of a user's message: a text, or parts (`text`, `image_url`, `video_url`)."""


@dataclass(frozen=True)
class ServiceRequest:
    """A question to the service.

    key: of `request_key`: requests with the same key have the same answer.
    content: makes the content of the user's message.
    clip: is kept with the answer.
    """

    key: str
    content: Callable[[], Content]
    clip: AnsweredClip = NO_CLIP


def request_key(identity: Mapping[str, Any], question: str, generation: Generation) -> str:
    """The key of a request: 40 hexadecimal digits, from everything that its answer depends on.

    identity: of what is sent besides the text: of the file, and how it is sent (`clip_identity`); empty for text alone.
    """
    raise NotImplementedError


def body(generation: Generation, content: Content, extra: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The body of a chat completion.

    extra: messages after the user's, for a question that is asked once more.
    """
    raise NotImplementedError


def clip_content(question: str, frames: Sequence[bytes], visuals: Visuals, mime_type: str = "") -> Content:
    """The content that asks a question about a clip: its frames, then the question.

    frames: JPEGs in time order, which become `image_url` parts; or one video file, which becomes a `video_url` part.

    mime_type: of the file, if `frames` is one video file; empty for JPEG frames.
    """
    raise NotImplementedError


def video_fields(visuals: Visuals) -> dict[str, Any]:
    """Fields of a body that tell the service how to sample a video file (`media_io_kwargs`); empty for none."""
    raise NotImplementedError
