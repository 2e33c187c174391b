"""How the next token is chosen: the likeliest, or drawn from a random stream of the row's own.

What is sampled depends on the seed and the row alone, not on batch, rank or framework. Framework
generators won't do: mindnlp's ignore their seed, and a batch shares one stream.
"""

from __future__ import annotations

import numpy as np
import torch

from .options import GenerationOptions


def uniforms(row: int, options: GenerationOptions) -> np.ndarray:
    """The row's random numbers, one for each new token: float32 in [0, 1), (max_new_tokens,)."""
    stream = np.random.Generator(np.random.Philox([options.seed, row]))
    # Below 1 by more than rounding, so that a draw never falls behind the last likely token.
    return np.minimum(stream.random(options.max_new_tokens), 1 - 1e-6).astype(np.float32)


def choose(logits: torch.Tensor, uniform: torch.Tensor | None, options: GenerationOptions) -> torch.Tensor:
    """Next token ids (batch,) int64 from logits (batch, vocabulary), on their device.

    uniform: (batch,) random numbers in [0, 1) if `options` sample.
    """
    if not options.samples:
        return logits.argmax(-1)
    assert uniform is not None
    probabilities = torch.nn.functional.softmax(logits.float() / options.temperature, dim=-1)
    if options.top_p == 1:
        return _draw(probabilities, uniform)
    # The nucleus: as few of the likeliest tokens as hold top_p of the probability.
    likeliest, order = torch.topk(probabilities, probabilities.shape[-1])
    before = torch.cumsum(likeliest, -1) - likeliest
    nucleus = torch.where(before < options.top_p, likeliest, torch.zeros_like(likeliest))
    return torch.gather(order, 1, _draw(nucleus, uniform)[:, None])[:, 0]


def _draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Index of each row's draw, by inverting its cumulative distribution."""
    cumulative = torch.cumsum(weights, -1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    drawn = (cumulative <= threshold).to(torch.int64).sum(-1)
    return torch.clamp(drawn, max=weights.shape[-1] - 1)
