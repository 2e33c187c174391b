"""Divide texts with times into parts that fit into the window of a text model.

Knows nothing about models: the caller counts tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_MARGIN = 16
"""Tokens that are left free: two texts may have a few more tokens together than each alone."""


@dataclass(frozen=True)
class TimedText:
    """What is said about a part of a video.

    start, end: in milliseconds; `end` is None for the end of the video.
    """

    start: int
    end: int | None
    text: str

    @property
    def line(self) -> str:
        """The text with its times, as a prompt contains it."""
        return f"[{clock(self.start)} - {'end' if self.end is None else clock(self.end)}] {self.text}"


@dataclass(frozen=True)
class Window:
    """What a text model reads at once.

    size: tokens of a prompt and its answer together.
    overhead: tokens of a prompt without its question.
    tokens: the number of tokens of a piece of a question.
    """

    size: int
    overhead: int
    tokens: Callable[[str], int]

    def room(self, question: str, answer_tokens: int) -> int:
        """The tokens that texts may have if `question` is asked about them."""
        return self.size - self.overhead - self.tokens(f"\n\n{question}") - answer_tokens - _MARGIN


def prompt_about(texts: Sequence[TimedText], question: str) -> str:
    """The question about texts, in order of time."""
    return "\n".join(text.line for text in texts) + f"\n\n{question}"


def parts_that_fit(texts: Sequence[TimedText], room: int, tokens: Callable[[str], int]) -> list[list[TimedText]]:
    """The texts in order, in as few parts as possible of about equal length, each of at most `room` tokens.

    A text that is too long for a part is cut between words, or between characters if it has no spaces.
    """
    pieces = [piece for text in texts for piece in _pieces(text, room, tokens)]
    costs = [tokens(f"{piece.line}\n") for piece in pieces]
    total = sum(costs)
    target = total / max(1, math.ceil(total / room))
    parts: list[list[TimedText]] = []
    used = room + 1
    for piece, cost in zip(pieces, costs, strict=True):
        # A part ends where it is nearest to the target.
        if used + cost > room or used + cost / 2 > target:
            parts.append([])
            used = 0
        parts[-1].append(piece)
        used += cost
    return parts


def clock(milliseconds: int) -> str:
    """A time for readers: `0:07`, `12:30`, `1:02:03`; with tenths of a second if it has any."""
    tenths = (milliseconds + 50) // 100
    seconds, tenth = divmod(tenths, 10)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return f"{text}.{tenth}" if tenth else text


def _pieces(text: TimedText, room: int, tokens: Callable[[str], int]) -> Iterator[TimedText]:
    """The text, or pieces of it with the same times, each of which fits."""
    rest = text.text
    while tokens(f"{TimedText(text.start, text.end, rest).line}\n") > room:
        fits, too_long = 1, len(rest)  # a character is always taken, so that this ends
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if tokens(f"{TimedText(text.start, text.end, rest[:middle]).line}\n") <= room:
                fits = middle
            else:
                too_long = middle
        space = rest.rfind(" ", 0, fits + 1)
        cut = space if space > 0 else fits
        yield TimedText(text.start, text.end, rest[:cut].strip())
        rest = rest[cut:].strip()
    if rest:
        yield TimedText(text.start, text.end, rest)
