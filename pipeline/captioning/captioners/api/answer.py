"""An answer of a service, as it is stored: nothing is judged yet. Knows nothing about the library of the service."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """One paid answer.

    text: of the message; empty if there is none.
    finish_reason: as the service gives it (`stop`, `length`, `content_filter`, …); empty if it gives none.
    refusal: the text of a refusal; empty if the model did not refuse.
    prompt_tokens, completion_tokens: usage; 0 if unknown.
    has_usage: whether the service reported a usage that makes sense.
    """

    text: str
    finish_reason: str = "stop"
    refusal: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    has_usage: bool = True


@dataclass(frozen=True)
class AnsweredClip:
    """What is kept with an answer so that a later run can use it without decoding the clip; see `Clip`."""

    path: str = ""
    partial: bool = False
    is_image: bool = False


NO_CLIP = AnsweredClip()
"""Of a question about text alone."""


def well_formed(text: str) -> str:
    """The text without NUL and lone surrogates: JSON can contain them, but neither SQLite nor a UTF-8 file can."""
    return text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
