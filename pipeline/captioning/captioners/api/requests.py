"""A request to the service: its key, and its body in the form of chat completions.

Knows nothing about the network. A body is made anew for each try, so that no request keeps encoded frames in memory.
Large clips are not encoded when the body is made, but piece by piece while it is sent: encoding a file of 100 MB at
once would block the event loop, also from a thread, and need several copies of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .answer import NO_CLIP, AnsweredClip
from .options import VIDEO, Generation, Visuals
from .schema import fits_strict

Content: TypeAlias = "str | Sequence[Mapping[str, Any]]"
"""The content of a user's message: a text, or parts (`text`, `image_url`, `video_url`). URLs may be `LargeFile`s."""

LARGE_BYTES = 2**20
"""The frames or the file of a clip with more bytes than this are `LargeFile`s."""
_PIECE_BYTES = 3 * 2**16  # a multiple of 3, so that the base64 of the pieces can be joined

_KEY_VERSION = 1
"""To be increased when answers to requests with the same key are not the same any more."""


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


@dataclass(frozen=True)
class LargeFile:
    """A file in the place of its data URL, which is made when it is needed. `len` is the length of the URL in bytes."""

    mime_type: str
    data: bytes | memoryview

    def __len__(self) -> int:
        return len(self._prefix()) + (len(self.data) + 2) // 3 * 4

    def pieces(self) -> Iterator[bytes]:
        """The URL in pieces that take about a millisecond each."""
        yield self._prefix()
        view = memoryview(self.data)
        for begin in range(0, len(view), _PIECE_BYTES):
            yield base64.b64encode(view[begin : begin + _PIECE_BYTES])

    def _prefix(self) -> bytes:
        return f"data:{self.mime_type};base64,".encode("ascii")


def request_key(identity: Mapping[str, Any], question: str, generation: Generation) -> str:
    """The key of a request: 40 hexadecimal digits, from everything that its answer depends on.

    identity: of what is sent besides the text: of the file, and how it is sent (`clip_identity`); empty for text alone.
    """
    parts = {
        "version": _KEY_VERSION,
        "identity": identity,
        "system": generation.system or "",
        "question": question,
        "parameters": _parameters(generation),
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:40]


def body(generation: Generation, content: Content, extra: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The body of a chat completion.

    extra: messages after the user's, for a question that is asked once more.
    """
    messages: list[Mapping[str, Any]] = []
    if generation.system:
        messages.append({"role": "system", "content": generation.system})
    messages.append({"role": "user", "content": content})
    return {"messages": [*messages, *extra], **_parameters(generation)}


def clip_content(question: str, frames: Sequence[bytes | memoryview], visuals: Visuals, mime_type: str = "") -> Content:
    """The content that asks a question about a clip: its frames, then the question.

    frames: JPEGs in time order, which become `image_url` parts; or one video file, which becomes a `video_url` part.

    mime_type: of the file, if `frames` is one video file; empty for JPEG frames.
    """
    is_large = sum(map(len, frames)) > LARGE_BYTES
    return [*(_part(frame, visuals, mime_type, is_large) for frame in frames), {"type": "text", "text": question}]


def whole(content: Content) -> Content:
    """The content with texts in place of `LargeFile`s, for a body that is not sent piece by piece."""
    return content if isinstance(content, str) else [_whole_part(part) for part in content]


def json_parts(body: Mapping[str, Any]) -> list[bytes | LargeFile]:
    """A body as JSON: one part; with `LargeFile`s, these and what is between them."""
    files: list[LargeFile] = []
    mark = secrets.token_hex(16)

    def marked(value: object) -> str:
        if not isinstance(value, LargeFile):
            raise TypeError(f"{type(value).__name__} is no JSON")
        files.append(value)
        return mark

    first, *others = json.dumps(body, default=marked).encode("ascii").split(mark.encode("ascii"))
    parts: list[bytes | LargeFile] = [first]
    for file, after in zip(files, others, strict=True):
        parts += [file, after]
    return parts


def video_fields(visuals: Visuals) -> dict[str, Any]:
    """Fields of a body that tell the service how to sample a video file (`media_io_kwargs`); empty for none."""
    if visuals.send != VIDEO or not visuals.video_options:
        return {}
    return {"media_io_kwargs": {"video": dict(visuals.video_options)}}


def _parameters(generation: Generation) -> dict[str, Any]:
    """The fields of a body besides the messages. All of them are part of the key."""
    fields: dict[str, Any] = {"model": generation.model}
    if "max_completion_tokens" not in generation.extra_body:  # services refuse a request with both
        fields["max_tokens"] = generation.max_new_tokens
    if generation.temperature is not None:
        fields["temperature"] = float(generation.temperature)
    if generation.top_p is not None:
        fields["top_p"] = float(generation.top_p)
    if generation.seed is not None:
        fields["seed"] = generation.seed
    if generation.schema is not None:
        schema = {"name": "caption", "schema": generation.schema, "strict": fits_strict(generation.schema)}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return {**fields, **generation.extra_body}


def _part(data: bytes | memoryview, visuals: Visuals, mime_type: str, is_large: bool) -> dict[str, Any]:
    file = LargeFile(mime_type or "image/jpeg", data)
    url = file if is_large else _url(file)
    if mime_type:
        return {"type": "video_url", "video_url": {"url": url}}
    return {"type": "image_url", "image_url": {"url": url, **({"detail": visuals.detail} if visuals.detail else {})}}


def _whole_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    name = part["type"]
    medium = part[name]
    if isinstance(medium, str) or not isinstance(medium["url"], LargeFile):
        return part
    return {**part, name: {**medium, "url": _url(medium["url"])}}


def _url(file: LargeFile) -> str:
    return b"".join(file.pieces()).decode("ascii")
