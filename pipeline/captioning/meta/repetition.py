"""Detect looping captions: sometimes a language model repeats the same words until generation stops."""

from __future__ import annotations

import itertools
import re

_WORD = re.compile(r"[A-Za-z0-9']+|\w")
"""A word of Latin letters and digits, or a single other letter: some languages do not put spaces between words."""
MAX_PERIOD = 40
"""Number of words in the longest repeated sequence that is detected."""


def caption_words(caption: str) -> list[str]:
    """The words of a caption in any language, in lower case."""
    return _WORD.findall(caption.lower())


def has_fewer_words(caption: str, number: int) -> bool:
    """Whether a caption has fewer than `number` words. Does not count the others."""
    return next(itertools.islice(_WORD.finditer(caption.lower()), number - 1, None), None) is None


def is_looping(caption: str) -> bool:
    """Whether one to four words occur four times in a row, or five to MAX_PERIOD words three times in a row."""
    words = caption_words(caption)
    for period in _possible_periods(words):
        needed_matches = period * (3 if period <= 4 else 2)
        matches = 0
        for word, later in zip(words, words[period:], strict=False):
            matches = matches + 1 if word == later else 0
            if matches == needed_matches:
                return True
    return False


def _possible_periods(words: list[str]) -> set[int]:
    """The distances, of at most MAX_PERIOD words, at which the same three words in a row occur again.

    A loop has at least three matching words in a row at the distance of its period. Most captions have few such
    distances, so only these are examined.
    """
    threes = list(zip(words, words[1:], words[2:], strict=False))
    if len(set(threes)) == len(threes):
        return set()  # most captions end here, without the slower search below
    positions: dict[tuple[str, ...], list[int]] = {}
    periods: set[int] = set()
    for position, three in enumerate(threes):
        earlier = positions.setdefault(three, [])
        for other in reversed(earlier):
            if position - other > MAX_PERIOD:
                break
            periods.add(position - other)
        earlier.append(position)
    return periods
