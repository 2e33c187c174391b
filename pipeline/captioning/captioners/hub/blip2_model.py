"""BLIP-2 with exact relative positions in T5. Needs the framework."""

from __future__ import annotations

import functools
import itertools

import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention


class Blip2WithExactPositions(Blip2ForConditionalGeneration):
    """BLIP-2 of transformers; if its text model is T5, the buckets of relative positions are computed in integers.

    transformers computes logarithms in float32. The first distances of some buckets (16, 32 and 64 in Flan-T5) then
    depend on rounding: mindnlp on a CPU puts them into the bucket before.
    """

    def __init__(self, config: Blip2Config) -> None:
        super().__init__(config)
        for module in self.modules():
            if isinstance(module, T5Attention):
                module._relative_position_bucket = position_buckets


def position_buckets(
    relative_position: torch.Tensor, bidirectional: bool = True, num_buckets: int = 32, max_distance: int = 128
) -> torch.Tensor:
    """The bucket of each relative position, int64, of any shape; the arguments are those of transformers' T5.

    Source: T5 (Raffel et al., 2020, arXiv:1910.10683). Half of the buckets hold one distance each; the first distances
    of the others grow exponentially, up to `max_distance`.

    bidirectional: positions after the query have buckets of their own; otherwise their distance is 0.
    """
    zeros = torch.zeros_like(relative_position)
    if bidirectional:
        num_buckets //= 2
        offset = (relative_position > 0).to(torch.int64) * num_buckets
        distance = torch.abs(relative_position)
    else:
        offset = zeros
        distance = torch.maximum(-relative_position, zeros)
    bucket = offset
    for first in _first_distances(num_buckets, max_distance):
        bucket = bucket + (distance >= first).to(torch.int64)
    return bucket


@functools.cache
def _first_distances(buckets: int, max_distance: int) -> tuple[int, ...]:
    """The smallest distance of each bucket but the first one."""
    exact = buckets // 2
    wide = buckets - exact
    firsts = list(range(1, exact + 1))
    for number in range(1, wide):
        # The first distance >= exact * (max_distance / exact) ** (number / wide), compared in integers.
        bound = exact ** (wide - number) * max_distance**number
        firsts.append(next(distance for distance in itertools.count(firsts[-1]) if distance**wide >= bound))
    return tuple(firsts)
