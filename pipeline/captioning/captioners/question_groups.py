"""Which questions about a clip can follow each other in one slot of the engine.

Works on token ids. Imports no framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .clip_prompts import common_beginning


@dataclass(frozen=True, eq=False)
class QuestionPrompt:
    """The prompt of one question about a clip.

    number: of the question among the clip's questions.
    pieces: token ids before, between and after the visual blocks.
    positions: of all tokens, visual ones too, (tokens,) or (3, tokens). next_position: of the first generated token.
    history_ids: see `generation.requests.Request`.
    """

    number: int
    pieces: Sequence[Sequence[int]]
    positions: np.ndarray
    next_position: int
    history_ids: tuple[int, ...] = ()


def grouped(prompts: Sequence[QuestionPrompt]) -> list[list[QuestionPrompt]]:
    """The prompts in groups whose prompts are equal up to the text after the last visual block.

    The order of the questions is kept within a group. A prompt without text after the last block is alone.
    """
    groups: dict[object, list[QuestionPrompt]] = {}
    for prompt in prompts:
        *before, last = map(tuple, prompt.pieces)
        groups.setdefault(tuple(before) if last else prompt.number, []).append(prompt)
    return list(groups.values())


def shared_text(group: Sequence[QuestionPrompt]) -> int:
    """Number of tokens with which the last pieces of all prompts of a group begin; each piece has at least one more."""
    last = [prompt.pieces[-1] for prompt in group]
    return max(0, min(common_beginning(last), min(map(len, last)) - 1))
