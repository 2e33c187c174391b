"""Chooses the next tokens of a batch: the most probable token, or a sample from the request's own random stream.

The samples depend only on the seed and the request's stream, not on batch, rank or framework. The frameworks' own
generators do not provide this: those of mindnlp ignore their seed, and all rows of a batch share one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from .options import GenerationOptions

Upload = Callable[[np.ndarray], torch.Tensor]
"""Copies an array to the device."""

BANNED = -1e30
"""Added to a token's score, it excludes the token."""


def uniforms(stream: int, options: GenerationOptions) -> np.ndarray:
    """The random numbers of a stream, one for each new token: (max_new_tokens,) float32 in [0, 1)."""
    generator = np.random.Generator(np.random.Philox([options.seed, stream]))
    # Below 1 by more than rounding errors, so that a draw never selects a token after the last probable one.
    return np.minimum(generator.random(options.max_new_tokens), 1 - 1e-6).astype(np.float32)


def repeating_tokens(ids: Sequence[int], size: int) -> list[int]:
    """Tokens that would repeat an n-gram of `ids`; transformers' `no_repeat_ngram_size` excludes the same ones."""
    tail = list(ids[len(ids) - size + 1 :]) if size > 1 else []
    starts = range(len(ids) - size + 1)
    return [ids[start + size - 1] for start in starts if list(ids[start : start + size - 1]) == tail]


class Sampler:
    """Chooses the next token of each row of a batch according to the row's own options.

    options: options of each row; None for rows whose tokens are not used.
    """

    def __init__(self, options: Sequence[GenerationOptions | None], upload: Upload) -> None:
        used = [row for row in options if row is not None]
        self.samples = any(row.samples for row in used)
        """Whether `choose` needs `uniform`."""
        self.penalizes = any(row.penalty != 1 for row in used)
        """Whether `choose` needs `seen`."""
        rows = [row or GenerationOptions() for row in options]
        self._all_sample = all(row.samples for row in used)
        self._any_nucleus = any(row.samples and row.top_p < 1 for row in used)
        self._all_nucleus = all(row.samples and row.top_p < 1 for row in used)
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
        """Next token ids (rows,) int64, on the device of `logits`.

        logits: (rows, vocabulary).
        uniform: (rows,) random numbers in [0, 1); needed if `samples`.
        seen: bool (rows, vocabulary), tokens that the repetition penalty applies to; needed if `penalizes`.
        banned: float32 (rows, vocabulary), 0 or BANNED; None if no token is banned.
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
        if not self._any_nucleus:
            return _draw(probabilities, uniform)
        # The nucleus: the smallest set of most probable tokens whose probabilities add up to at least top_p.
        descending, order = torch.topk(probabilities, probabilities.shape[-1])
        before = torch.cumsum(descending, -1) - descending
        nucleus = torch.where(before < self._top_p, descending, torch.zeros_like(descending))
        drawn = torch.gather(order, 1, _draw(nucleus, uniform)[:, None])[:, 0]
        if self._all_nucleus:
            return drawn
        # A row without top_p draws in vocabulary order, so that its result does not depend on the other rows.
        return torch.where(self._has_nucleus, drawn, _draw(probabilities, uniform))


def _draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw one index for each row, by inverting the row's cumulative distribution."""
    cumulative = torch.cumsum(weights, -1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    drawn = (cumulative <= threshold).to(torch.int64).sum(-1)
    return torch.clamp(drawn, max=weights.shape[-1] - 1)
