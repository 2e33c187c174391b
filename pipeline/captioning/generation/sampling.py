"""How the next token is chosen: the likeliest, or drawn from a random stream of the request's own.

What is sampled depends on the seed and the request's stream alone, not on batch, rank or framework. Generators of
the frameworks cannot do that: mindnlp's ignore their seed, and a batch shares one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from .options import GenerationOptions

Upload = Callable[[np.ndarray], torch.Tensor]
"""Puts an array onto the device."""

BANNED = -1e30
"""Added to a score, it excludes a token."""


def uniforms(stream: int, options: GenerationOptions) -> np.ndarray:
    """The random numbers of a stream, one for each new token: float32 in [0, 1), (max_new_tokens,)."""
    generator = np.random.Generator(np.random.Philox([options.seed, stream]))
    # Below 1 by more than rounding, so that a draw never falls behind the last likely token.
    return np.minimum(generator.random(options.max_new_tokens), 1 - 1e-6).astype(np.float32)


def repeating_tokens(ids: Sequence[int], size: int) -> list[int]:
    """Tokens that would repeat an n-gram of `ids`, as transformers' `no_repeat_ngram_size` excludes them."""
    tail = list(ids[len(ids) - size + 1 :]) if size > 1 else []
    starts = range(len(ids) - size + 1)
    return [ids[start + size - 1] for start in starts if list(ids[start : start + size - 1]) == tail]


class Sampler:
    """Chooses the next token of each row of a batch by the row's own options.

    options: of each row; None for rows that nobody reads.
    """

    def __init__(self, options: Sequence[GenerationOptions | None], upload: Upload) -> None:
        read = [chosen for chosen in options if chosen is not None]
        self.samples = any(chosen.samples for chosen in read)
        """Whether `choose` needs random numbers."""
        self.penalizes = any(chosen.penalty != 1 for chosen in read)
        """Whether `choose` needs the tokens seen."""
        rows = [chosen or GenerationOptions() for chosen in options]
        self._all_sample = all(chosen.samples for chosen in read)
        self._nucleus = any(chosen.samples and chosen.top_p < 1 for chosen in read)
        self._all_nucleus = all(chosen.samples and chosen.top_p < 1 for chosen in read)
        if self.penalizes:
            self._penalty = upload(np.array([[row.penalty] for row in rows], np.float32))
        if self.samples:
            self._is_sampled = upload(np.array([row.samples for row in rows]))
            self._temperature = upload(
                np.array([[row.temperature if row.samples else 1.0] for row in rows], np.float32)
            )
            self._top_p = upload(np.array([[row.top_p] for row in rows], np.float32))
            self._has_nucleus = upload(np.array([row.samples and row.top_p < 1 for row in rows]))

    def choose(
        self,
        logits: torch.Tensor,
        uniform: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
        banned: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Next token ids (rows,) int64, on the device of `logits`, (rows, vocabulary).

        uniform: (rows,) random numbers in [0, 1), where `samples`.
        seen: bool (rows, vocabulary), tokens that the repetition penalty is for, where `penalizes`.
        banned: float32 (rows, vocabulary), 0 or BANNED; None for nothing banned.
        """
        scores = logits
        if seen is not None:
            scores = scores.float()
            penalized = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
            scores = torch.where(seen, penalized, scores)
        if banned is not None:
            scores = scores.float() + banned
        if not self.samples:
            return scores.argmax(-1)
        assert uniform is not None
        drawn = self._draw(scores.float(), uniform)
        return drawn if self._all_sample else torch.where(self._is_sampled, drawn, scores.argmax(-1))

    def _draw(self, scores: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        probabilities = torch.nn.functional.softmax(scores / self._temperature, dim=-1)
        if not self._nucleus:
            return _draw(probabilities, uniform)
        # The nucleus: as few of the likeliest tokens as hold top_p of the probability.
        likeliest, order = torch.topk(probabilities, probabilities.shape[-1])
        before = torch.cumsum(likeliest, -1) - likeliest
        nucleus = torch.where(before < self._top_p, likeliest, torch.zeros_like(likeliest))
        drawn = torch.gather(order, 1, _draw(nucleus, uniform)[:, None])[:, 0]
        if self._all_nucleus:
            return drawn
        # A row without a nucleus draws in the order of the vocabulary, whatever its neighbours do.
        return torch.where(self._has_nucleus, drawn, _draw(probabilities, uniform))


def _draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Index of each row's draw, by inverting its cumulative distribution."""
    cumulative = torch.cumsum(weights, -1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    drawn = (cumulative <= threshold).to(torch.int64).sum(-1)
    return torch.clamp(drawn, max=weights.shape[-1] - 1)
