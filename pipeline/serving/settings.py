"""The settings of the server, as frozen dataclasses. Imports no framework and no HTTP library."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..captioning.clips.sampling import FrameSampling
from ..captioning.generation.options import GenerationOptions


@dataclass(frozen=True)
class RequestLimits:
    """Bounds of what clients may send.

    body_bytes: largest body of a request. all_body_bytes: bytes of all bodies that are being read or decoded.
    all_media_bytes: bytes of the media of all open questions, which are files in a private folder.
    body_seconds: time for receiving a body. request_seconds: time from the body to the end of the answer.
    images: most images in one message. frames: most frames of one video that are sent as JPEGs.
    new_tokens: largest `max_tokens`.
    connections: most open connections.
    """

    body_bytes: int = 256 * 2**20
    all_body_bytes: int = 2**30
    all_media_bytes: int = 2**33
    body_seconds: float = 60.0
    request_seconds: float = 600.0
    images: int = 64
    frames: int = 1024
    new_tokens: int = 4096
    connections: int = 1024


@dataclass(frozen=True)
class MediaAccess:
    """What the server may read besides data URLs: nothing by default.

    domains: hosts, in lower case, with a port or without; without one the default port of the scheme is meant.
    folders: resolved paths of folders.
    """

    domains: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ServedModel:
    """The model as clients see it.

    name: the name of the checkpoint's folder.
    question: asked if a message has no text. options: how tokens are chosen unless a request says otherwise.
    sampling: which frames of a video are sampled unless a request says otherwise.
    created: seconds since 1970 at which the server started.
    rate_sampling: replaces `sampling` for a request with a frame rate; None for no other. See `frame_sampling`.
    images_are_frames: several images are the frames of one video, see `CaptionerSource`.
    """

    name: str
    question: str
    options: GenerationOptions
    sampling: FrameSampling
    created: int
    rate_sampling: FrameSampling | None = None
    images_are_frames: bool = False


@dataclass(frozen=True)
class HttpSettings:
    """The settings of the HTTP side. api_key: empty for none; appears in no log and no message."""

    model: ServedModel
    limits: RequestLimits = RequestLimits()
    access: MediaAccess = MediaAccess()
    api_key: str = field(default="", repr=False)
