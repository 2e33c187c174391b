"""Makes the text of a caption fit for subtitles and chapters: lines, titles, escapes. Knows nothing about times."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

TITLE_CHARACTERS = 100
"""A chapter's title has at most so many characters."""
_LINE_CHARACTERS = 1000
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # without those that are white space
_NOT_IN_UTF8 = re.compile(r"[\ud800-\udfff\ufffe\uffff]")  # the last two are no characters: FFmpeg refuses them
# A period ends no sentence after a single letter (e.g.), a digit (1.) and the most frequent abbreviations.
_SENTENCE_END = re.compile(
    r"""(?:[!?…]|(?<!\b\w)(?<!\d)(?<!\b(?:Mr|Ms|Dr|St|vs))(?<!\bMrs)\.)["'”’»)\]]*(?=\s)"""  # noqa: RUF001
    r"""|[。！？।؟۔]["”’»」』）]*"""  # noqa: RUF001
)
_ZERO_WIDTH_JOINER = "\u200d"
_SRT_MARKUP = str.maketrans("<>{}\\", "\uff1c\uff1e\uff5b\uff5d\uff3c")
_VTT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_FFMETADATA_SPECIAL = re.compile(r"([=;#\\])")


def plain_lines(text: str) -> list[str]:
    """The lines of a text that are not blank. Each run of white space becomes one space; control characters go."""
    text = _NOT_IN_UTF8.sub("\ufffd", _CONTROL.sub("", text))
    return [" ".join(words) for line in text.splitlines() if (words := line.split())]


def one_line(text: str) -> str:
    """The lines of a text, joined by spaces."""
    return " ".join(plain_lines(text))


def chapter_title(line: str) -> str:
    """The first sentence of a line, cut at a word to TITLE_CHARACTERS."""
    end = _SENTENCE_END.search(line)
    return _cut(line[: end.end()] if end else line, TITLE_CHARACTERS)


def vtt_escaped(text: str) -> str:
    """A text that readers of WebVTT show as it was. `-->`, which can't be in a cue, is escaped too."""
    return text.translate(_VTT_ESCAPES)


def srt_lines(lines: Iterable[str]) -> list[str]:
    r"""Lines for SRT.

    SRT has no escapes: players take `<…>`, `{…}` and `\N` for markup, and `-->` for a time. The full-width forms of
    these characters replace them. Long lines are divided, because FFmpeg divides lines of 4,096 bytes in any place.
    """
    return [part for line in lines for part in _divided(line.translate(_SRT_MARKUP))]


def ffmetadata_escaped(line: str) -> str:
    """A line as a value in FFmpeg's metadata format.

    A backslash at the end gets a space after it: FFmpeg takes it for an escape of the line end, even if it is escaped.
    """
    escaped = _FFMETADATA_SPECIAL.sub(r"\\\1", line)
    return f"{escaped} " if line.endswith("\\") else escaped


def _divided(line: str) -> list[str]:
    parts = []
    while len(line) > _LINE_CHARACTERS:
        end = _place_to_cut(line, _LINE_CHARACTERS)
        parts.append(line[:end].rstrip())
        line = line[end:].lstrip()
    return [*parts, line]


def _cut(text: str, characters: int) -> str:
    """A text of at most `characters`. An ellipsis says that it was longer."""
    if len(text) <= characters:
        return text
    return text[: _place_to_cut(text, characters - 1)].rstrip() + "…"


def _place_to_cut(text: str, limit: int) -> int:
    """Where to cut a text that is longer than `limit`: after a word if there is a space, else after a character.

    Words are those that spaces divide: in languages without them, a space may be far back and is not used.
    """
    space = text.rfind(" ", limit // 2, limit + 1)
    if space > 0:
        return space
    place = limit
    while place > 1 and _is_within_character(text, place):
        place -= 1
    return place if place > 1 else limit


def _is_within_character(text: str, place: int) -> bool:
    """Whether accents or parts of an emoji follow: what a reader sees as one character would be cut."""
    following = text[place]
    return (
        unicodedata.category(following).startswith("M")
        or following == _ZERO_WIDTH_JOINER
        or "\U0001f3fb" <= following <= "\U0001f3ff"  # skin tones
        or text[place - 1] == _ZERO_WIDTH_JOINER
    )
