"""Joins the parts of a prompt, and the answers of a clip. Knows no model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch


def text_length(pieces: Sequence[Sequence[int]]) -> int:
    """Number of text tokens around the blocks of a prompt."""
    return sum(map(len, pieces))


def interleaved(texts: Sequence[torch.Tensor], blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Embeddings of a prompt, (tokens, width): the blocks with the texts before, between and after them."""
    parts = [texts[0]]
    for block, text in zip(blocks, texts[1:], strict=True):
        parts += [block, text]
    return torch.cat([part for part in parts if len(part)])


def joined_answers(answers: Sequence[str]) -> str:
    """The text of all answers of a clip. An answer that repeats the one before it appears once."""
    return "; ".join(answer for answer, _ in itertools.groupby(filter(None, answers)))
