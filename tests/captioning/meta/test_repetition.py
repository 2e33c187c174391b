"""Looping captions are detected; captions that only repeat some words are not."""

from __future__ import annotations

import random

import pytest

from pipeline.captioning.meta.repetition import MAX_PERIOD, is_looping

SENTENCE = "the man in the red shirt walks past a window and looks at the camera "


@pytest.mark.parametrize(
    "caption",
    [
        "very very very very tall",
        "A dog, a dog, a dog, a dog",
        "It begins well. " + SENTENCE * 3,
        "一只猫一只猫一只猫一只猫",
        "and then " * 50,
    ],
)
def test_looping(caption: str) -> None:
    assert is_looping(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "dog",
        "A very, very, very tall man.",
        SENTENCE * 2,
        "A large red circle moves left and a small red circle moves left, on a red background.",
        "一只猫在绿色的草地上慢慢地走",
    ],
)
def test_not_looping(caption: str) -> None:
    assert not is_looping(caption)


def test_loops_of_every_period_are_found_and_no_others() -> None:
    """Compared with the definition: every period is tried."""

    def by_definition(words: list[str]) -> bool:
        return any(
            all(word == later for word, later in zip(part, part[period:], strict=False))
            for period in range(1, MAX_PERIOD + 1)
            for length in [period * (4 if period <= 4 else 3)]
            for part in (words[start : start + length] for start in range(len(words) - length + 1))
        )

    generator = random.Random(0)
    found = 0
    for _ in range(300):
        unit = [generator.choice("abcdef"[: generator.randint(1, 6)]) for _ in range(generator.randint(1, 42))]
        words = (["x", "y"] + unit * generator.randint(1, 4) + ["z"])[: generator.randint(1, 140)]
        assert is_looping(" ".join(words)) == by_definition(words), words
        found += by_definition(words)
    assert 50 < found < 250
