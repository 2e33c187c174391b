"""The number of tokens of a text for a model whose tokenizer is not known: rather too many than too few."""

from __future__ import annotations

import math
import re

_WORDS = re.compile(r"[A-Za-z ]+")
_CHARACTERS_PER_TOKEN = 3
"""Of English words and the spaces between them: tokenizers of present models need a token for four to five."""
_BYTES_PER_TOKEN = 1.5
"""Of the UTF-8 of other scripts: two tokens for a Chinese character, of which many tokenizers need one or less."""


def text_tokens(text: str) -> int:
    """Tokens that a text is likely to have at most. Digits and punctuation marks count as a token each."""
    words = sum(map(len, _WORDS.findall(text)))
    ascii_characters = sum(character < "\x80" for character in text)
    other_bytes = len(text.encode(errors="surrogatepass")) - ascii_characters
    return math.ceil(words / _CHARACTERS_PER_TOKEN + (ascii_characters - words) + other_bytes / _BYTES_PER_TOKEN)
