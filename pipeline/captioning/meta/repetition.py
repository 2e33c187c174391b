"""Looping captions: a language model that has lost its thread says the same again and again."""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Za-z0-9']+|\w")
"""Words of Latin letters; any other letter is one of its own, for not all languages put spaces."""
LONGEST = 40
"""Words of the longest stretch that is looked for."""


def caption_words(caption: str) -> list[str]:
    """The words of a caption in any language, in lower case."""
    return _WORD.findall(caption.lower())


def is_looping(caption: str) -> bool:
    """Whether one to four words come four times in a row, or a longer stretch three times."""
    words = caption_words(caption)
    for period in range(1, min(LONGEST, len(words) // 3) + 1):
        enough = period * (3 if period <= 4 else 2)
        run = 0
        for word, later in zip(words, words[period:], strict=False):
            run = run + 1 if word == later else 0
            if run == enough:
                return True
    return False
