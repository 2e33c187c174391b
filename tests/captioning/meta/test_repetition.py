"""Looping captions are detected; captions that only repeat some words are not."""

from __future__ import annotations

import pytest

from pipeline.captioning.meta.repetition import is_looping

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
