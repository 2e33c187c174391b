"""What a `BatchEngine` does in each step of transformers' `generate`, as logits processors.

They follow the same rules as `slots.NextTokens`: NaN scores are recorded, then come the repetition penalty, the n-gram
rule, and the choice of a sample from the request's own random stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import LogitsProcessor

from .requests import Request
from .sampling import BANNED, Sampler, Upload, repeating_tokens, uniforms


class StepMonitor(LogitsProcessor):
    """Records which prompts have NaN scores, and calls `on_token`."""

    def __init__(self, prompts: int, on_token: Callable[[], None]) -> None:
        self._prompts, self._on_token = prompts, on_token
        self._has_nan: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # The beams of a prompt are adjacent rows. A score of -infinity is valid: it excludes a token.
        has_nan = torch.isnan(scores).reshape(self._prompts, -1).any(-1)
        self._has_nan = has_nan if self._has_nan is None else self._has_nan | has_nan
        self._on_token()
        return scores

    def has_nan(self) -> list[bool]:
        """For each prompt, whether a score was NaN."""
        assert self._has_nan is not None
        return [bool(value) for value in self._has_nan.cpu().numpy()]


class RepetitionRules(LogitsProcessor):
    """The repetition penalty and the n-gram rule over the history ids of each request and the ids so far.

    The ids so far of an encoder-decoder model begin with the decoder's start token, which transformers counts too.

    batch: requests with the same options.
    """

    def __init__(self, batch: Sequence[Request], upload: Upload) -> None:
        self._histories, self._upload = [list(request.history_ids) for request in batch], upload
        self._penalty, self._size = batch[0].options.penalty, batch[0].options.ngram_size

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows, vocabulary = scores.shape
        beams = rows // len(self._histories)
        new_ids = input_ids.cpu().numpy().tolist() if input_ids.shape[1] else [[]] * rows
        ids = [self._histories[row // beams] + new_ids[row] for row in range(rows)]
        if self._penalty != 1:
            seen = np.zeros((rows, vocabulary), np.bool_)
            for row, row_ids in enumerate(ids):
                seen[row, _known(row_ids, vocabulary)] = True
            penalized = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
            scores = torch.where(self._upload(seen), penalized, scores)
        if self._size:
            banned = np.zeros((rows, vocabulary), np.float32)
            for row, row_ids in enumerate(ids):
                banned[row, _known(repeating_tokens(row_ids, self._size), vocabulary)] = BANNED
            scores = scores + self._upload(banned)
        return scores


class StreamSampler(LogitsProcessor):
    """Draws the next token of each row with the row's own random number; a greedy choice from its result is the draw.

    batch: requests with the same options.
    """

    def __init__(self, batch: Sequence[Request], upload: Upload) -> None:
        self._sampler = Sampler([request.options for request in batch], upload)
        numbers = [uniforms(request.stream, request.options) for request in batch]
        self._uniforms, self._step = upload(np.stack(numbers, 1)), 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = self._sampler.choose(scores, self._uniforms[self._step])
        self._step += 1
        excluded = torch.full(scores.shape, BANNED, dtype=scores.dtype, device=scores.device)
        chosen = torch.zeros((scores.shape[0], 1), dtype=scores.dtype, device=scores.device)
        return excluded.scatter(1, tokens[:, None], chosen)


def _known(ids: Sequence[int], vocabulary: int) -> list[int]:
    """The ids that have a score: those of visual tokens may be beyond the vocabulary."""
    return [token for token in ids if token < vocabulary]
