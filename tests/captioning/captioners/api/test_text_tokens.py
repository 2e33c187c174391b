"""The rough number of tokens of a text."""

from __future__ import annotations

import pytest

from pipeline.captioning.captioners.api.text_tokens import text_tokens


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("A man in a red jacket walks slowly across a snowy street while two dogs follow him.", 19),
        ("[0:12.5 - 1:02:03] A dog.\n", 18),
        ("一只狗在草地上奔跑旁边有两个孩子。", 20),
        ("Собака бежит по траве.", 11),
    ],
    ids=["English", "times", "Chinese", "Russian"],
)
def test_texts_have_rather_fewer_tokens(text: str, known: int) -> None:
    """known: the largest number that tokenizers of present models are likely to give, if each digit is a token."""
    assert known <= text_tokens(text) <= 3 * known


def test_parts_have_together_at_least_the_tokens_of_the_whole() -> None:
    text = "A dog runs, 12 birds fly away. " * 20
    assert sum(text_tokens(text[begin : begin + 7]) for begin in range(0, len(text), 7)) >= text_tokens(text)
    assert text_tokens("") == 0
