"""Divide texts with times into parts that fit into the window of a text model.

Knows nothing about models: the caller counts tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_MARGIN = 16
"""Tokens that are left free: two texts may have a few more tokens together than each alone."""
_FIRST_TRY = 256
"""Characters of a text that are tried first: most captions are shorter."""


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
    """The texts in order, in as few parts as possible, each of at most `room` tokens; none without a text.

    Among the divisions into so many parts, the longest part is as short as possible. A text that is too long for a part
    is cut between words, or between characters if it has no spaces. Blank texts are left out.
    """
    pieces = [piece for text in texts for piece in _pieces(text, room, tokens)]
    costs = [tokens(f"{piece.line}\n") for piece in pieces]
    starts = _starts(costs, room)
    too_short, fits = 0, room
    while fits - too_short > 1:
        middle = (too_short + fits) // 2
        found = _starts(costs, middle)
        if len(found) == len(starts) and max(costs, default=0) <= middle:
            starts, fits = found, middle
        else:
            too_short = middle
    return [pieces[begin:end] for begin, end in zip(starts, [*starts, len(pieces)][1:], strict=True)]


def _starts(costs: Sequence[int], room: int) -> list[int]:
    """Where parts begin if each takes as many pieces as fit into `room` tokens, which are the fewest parts."""
    starts, used = list[int](), room + 1
    for number, cost in enumerate(costs):
        if used + cost > room:
            starts.append(number)
            used = 0
        used += cost
    return starts


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

    def piece(words: str) -> TimedText:
        return TimedText(text.start, text.end, words)

    def does_fit(length: int) -> bool:
        return tokens(f"{piece(rest[:length]).line}\n") <= room

    rest = text.text.strip()
    while rest:
        fits, too_long = 1, len(rest) + 1  # a character is always taken, so that this ends
        while too_long - fits > 1:
            # First from short to long, because a text may be many times as long as a part.
            is_bounded = too_long <= len(rest)
            length = (fits + too_long) // 2 if is_bounded else min(max(2 * fits, _FIRST_TRY), len(rest))
            if does_fit(length):
                fits = length
            else:
                too_long = length
        space = rest.rfind(" ", 1, fits + 1) if fits < len(rest) else -1
        cut = space if space > 0 else fits
        yield piece(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
