"""Which waiting requests are prefilled together, and their batch; knows no model and no cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .requests import Request

_MOST_PADDING = 1.25
"""Tokens of a padded batch for each token of its prompts, at most: padding is computed like prompts."""


def next_group(waiting: Sequence[Request], room: int, most_tokens: int) -> list[Request]:
    """The oldest request, and others of about its length: at most `room`, and `most_tokens` with padding.

    All of them begin with the shared prefix, or none does, and all have as many position axes.
    """
    oldest = waiting[0]
    kind = oldest.has_prefix, oldest.positions.ndim
    alike = [request for request in waiting[1:] if (request.has_prefix, request.positions.ndim) == kind]
    group, longest, total = [oldest], oldest.length, oldest.length
    for request in sorted(alike, key=lambda request: abs(request.length - oldest.length)):
        longest, total = max(longest, request.length), total + request.length
        padded_tokens = (len(group) + 1) * longest
        if len(group) == room or padded_tokens > min(most_tokens, _MOST_PADDING * total):
            break
        group.append(request)
    return group


def padded(group: Sequence[Request]) -> tuple[torch.Tensor, np.ndarray]:
    """Embeddings (requests, tokens, width) and positions of a batch, padded on the right.

    Returns positions as (requests, tokens), or (3, requests, tokens) for three axes.
    """
    longest = max(request.length for request in group)
    positions = [_padded_positions(request.positions, longest) for request in group]
    return torch.stack([_padded_rows(request.embeddings, longest) for request in group]), np.stack(positions, -2)


def _padded_rows(embeddings: torch.Tensor, length: int) -> torch.Tensor:
    missing = length - embeddings.shape[0]
    if not missing:
        return embeddings
    zeros = torch.zeros((missing, embeddings.shape[1]), dtype=embeddings.dtype, device=embeddings.device)
    return torch.cat([embeddings, zeros])


def _padded_positions(positions: np.ndarray, length: int) -> np.ndarray:
    width = [(0, 0)] * (positions.ndim - 1) + [(0, length - positions.shape[-1])]
    return np.pad(positions, width, mode="edge")
