"""Selects waiting requests for one prefill and builds its batch. Knows nothing about models and caches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .requests import Request

_MAX_PADDING = 1.25
"""Maximum ratio of a batch's tokens with padding to those without: padding costs as much time as prompts."""


def next_group(waiting: Sequence[Request], free_slots: int, max_tokens: int) -> list[Request]:
    """The oldest request, and others of similar length: at most `free_slots` requests.

    Either all of them begin with the shared prefix or none. All have the same number of position axes.

    max_tokens: maximum size of the batch, with padding; the oldest request is taken even if it is longer.
    """
    oldest = waiting[0]
    kind = oldest.has_prefix, oldest.positions.ndim
    candidates = [request for request in waiting[1:] if (request.has_prefix, request.positions.ndim) == kind]
    group, longest, total = [oldest], oldest.length, oldest.length
    for request in sorted(candidates, key=lambda request: abs(request.length - oldest.length)):
        longest, total = max(longest, request.length), total + request.length
        padded_tokens = (len(group) + 1) * longest
        if len(group) == free_slots or padded_tokens > min(max_tokens, _MAX_PADDING * total):
            break
        group.append(request)
    return group


def padded(group: Sequence[Request]) -> tuple[torch.Tensor, np.ndarray]:
    """Embeddings (requests, tokens, width) and positions of a batch, padded on the right.

    Returns positions as (requests, tokens), or (3, requests, tokens) for three axes.
    """
    longest = max(request.length for request in group)
    positions = [padded_positions(request.positions, longest) for request in group]
    return torch.stack([padded_rows(request.embeddings, longest) for request in group]), np.stack(positions, -2)


def padded_rows(embeddings: torch.Tensor, length: int) -> torch.Tensor:
    """(tokens, width) with rows of zeros added, up to `length` tokens."""
    missing = length - embeddings.shape[0]
    if not missing:
        return embeddings
    zeros = torch.zeros((missing, embeddings.shape[1]), dtype=embeddings.dtype, device=embeddings.device)
    return torch.cat([embeddings, zeros])


def padded_positions(positions: np.ndarray, length: int) -> np.ndarray:
    """(tokens,) or (3, tokens) with the last position repeated, up to `length` tokens."""
    width = [(0, 0)] * (positions.ndim - 1) + [(0, length - positions.shape[-1])]
    return np.pad(positions, width, mode="edge")
