"""The `messages` of a chat completion as one question: system prompt, text, media. Opens no medium."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import RequestError
from .fields import Fields

MOST_CHARACTERS = 2**20
"""Of the texts of a request: far more than any model reads, and few enough to be divided into tokens at once."""
_SYSTEM_ROLES = ("system", "developer")


class Kind(enum.Enum):
    """What a client says that a medium is. In the end the content decides."""

    IMAGE = "image_url"
    VIDEO = "video_url"


@dataclass(frozen=True)
class Medium:
    """A medium of a message. url: as the client sent it. path: of the part in the body, for messages."""

    kind: Kind
    url: str
    path: str


@dataclass(frozen=True)
class Conversation:
    """What is asked. system: None for none; question: the texts of the user, joined by newlines."""

    system: str | None
    question: str
    media: tuple[Medium, ...]


def conversation(messages: Any, most_images: int) -> Conversation:
    """Read the field `messages`.

    Raises:
        RequestError: no user's message, or anything but a system prompt before it; parts of other types; too many
            images, several videos, or both; neither text nor media.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RequestError("messages must be a list with a user's message", "messages", "invalid_type")
    system = None
    if len(messages) > 1 and _role(messages[0], 0) in _SYSTEM_ROLES:
        system = _system(messages[0])
    for index in range(0 if system is None else 1, len(messages)):
        _check_role(_role(messages[index], index), index, len(messages))
    texts, media = _content(messages[-1], f"messages[{len(messages) - 1}]")
    _check_media(media, most_images)
    question = "\n".join(texts)
    if not question.strip() and not media:
        path = f"messages[{len(messages) - 1}].content"
        raise RequestError(f"{path} has neither text nor media", path, "invalid_value")
    if len(question) + len(system or "") > MOST_CHARACTERS:
        raise RequestError(
            f"the texts have more than {MOST_CHARACTERS} characters", "messages", "context_length_exceeded"
        )
    return Conversation(system, question if question.strip() else "", tuple(media))


def _role(message: Any, index: int) -> str:
    role = Fields(message, f"messages[{index}]").text("role")
    if role is None:
        raise RequestError(f"messages[{index}].role is missing", f"messages[{index}].role", "invalid_value")
    return role


def _check_role(role: str, index: int, count: int) -> None:
    path = f"messages[{index}]"
    if role == "assistant":
        problem = "is an earlier answer; this server answers single questions, so send one user's message alone"
    elif role in _SYSTEM_ROLES:
        problem = f"has the role {role}; send one system message, before the user's message"
    elif role != "user":
        problem = f"has the role {role[:40]!r}; this server takes system, developer and user"
    elif index != count - 1:
        problem = "is not the last message; this server answers single questions, so send one user's message"
    else:
        return
    raise RequestError(f"{path} {problem}", path, "invalid_messages")


def _system(message: Any) -> str:
    texts, media = _content(message, "messages[0]")
    if media:
        path = media[0].path
        raise RequestError(f"{path}: a system message takes text alone", path, "invalid_messages")
    return "\n".join(texts)


def _content(message: Any, where: str) -> tuple[list[str], list[Medium]]:
    fields = Fields(message, where)
    fields.ignore("role", "name")
    content = fields.any("content")
    fields.refuse_others()
    if isinstance(content, str):
        return [fields.text("content") or ""], []
    if not isinstance(content, list):
        raise fields.error("content", "must be a string or a list of parts", "invalid_type")
    texts: list[str] = []
    media: list[Medium] = []
    for index, part in enumerate(content):
        _read_part(Fields(part, f"{where}.content[{index}]"), texts, media)
    return texts, media


def _read_part(part: Fields, texts: list[str], media: list[Medium]) -> None:
    kind = part.text("type")
    if kind == "text":
        text = part.text("text")
        if text is None:
            raise part.error("text", "is missing")
        texts.append(text)
    elif kind in (Kind.IMAGE.value, Kind.VIDEO.value):
        media.append(Medium(Kind(kind), _url(part, kind), part.path(kind)))
    else:
        raise part.error("type", f"is {str(kind)[:40]!r}; this server takes text, image_url and video_url")
    part.refuse_others()


def _url(part: Fields, name: str) -> str:
    value = part.any(name)
    if isinstance(value, str):  # some clients leave out the object
        return value
    medium = Fields(value, part.path(name))
    medium.ignore("detail")  # the model decides how large it sees an image
    url = medium.any("url")
    if not isinstance(url, str):
        raise medium.error("url", "must be a string", "invalid_type")
    medium.refuse_others()
    return url


def _check_media(media: Sequence[Medium], most_images: int) -> None:
    videos = [medium for medium in media if medium.kind is Kind.VIDEO]
    if len(videos) > 1:
        raise RequestError("the message has several videos; send one", videos[1].path, "invalid_media")
    if videos and len(media) > 1:
        message = "the message has a video and images; send one video, or images alone"
        raise RequestError(message, videos[0].path, "invalid_media")
    if len(media) > most_images:
        message = f"the message has {len(media)} images, and the server takes at most {most_images}"
        raise RequestError(message, media[most_images].path, "too_many_images")
