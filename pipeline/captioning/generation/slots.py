"""What fills the engine's slots, and the choice of their next tokens; knows no model and no cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .requests import EndReason, Request
from .sampling import BANNED, Sampler, Upload, repeating_tokens, uniforms

NOT_A_NUMBER = -1
"""Reported instead of a token where the logits are not numbers."""


class Slot:
    """A request whose answer is being generated: all of it but the prompt's embeddings, whose memory is free again.

    start: the first decoding step of the engine that belongs to it.
    ids: generated so far.
    """

    def __init__(self, request: Request, start: int) -> None:
        self.key, self.options, self.start = request.key, request.options, start
        self.length, self.next_position = request.length, request.next_position
        self.has_prefix = request.has_prefix
        self.ids: list[int] = []
        self._stop_ids, self._counted_ids = request.stop_ids, request.counted_ids
        self._uniforms = uniforms(request.stream, request.options) if request.options.samples else None

    def end_with(self, token: int) -> EndReason | None:
        """Add a token; returns why the answer ends with it, if it does."""
        if token == NOT_A_NUMBER:
            return EndReason.NOT_A_NUMBER
        self.ids.append(token)
        if token in self._stop_ids:
            return EndReason.STOP
        return EndReason.LENGTH if len(self.ids) == self.options.max_new_tokens else None

    @property
    def left(self) -> int:
        """Tokens that may still be generated."""
        return self.options.max_new_tokens - len(self.ids)

    def uniform(self, ahead: int) -> float:
        """The random number for the token that comes `ahead` tokens after the next one; 0 for a greedy request."""
        return float(self._uniforms[len(self.ids) + ahead]) if self._uniforms is not None else 0.0

    @property
    def counted(self) -> list[int]:
        """Tokens that count as generated already."""
        return [*self._counted_ids, *self.ids]


class NextTokens:
    """Chooses the next tokens of all slots for some steps in a row, without a look from the host.

    slots: by row of the batch; None for a free one, whose tokens nobody reads.
    vocabulary: number of logits.
    steps: tokens that will be chosen; 1 where a request has an n-gram rule, which the host evaluates.
    """

    def __init__(self, slots: Sequence[Slot | None], vocabulary: int, steps: int, upload: Upload) -> None:
        options = [slot.options if slot else None for slot in slots]
        self._chooser = Sampler(options, upload)
        self._step = 0
        self._wrong = upload(np.full(len(slots), NOT_A_NUMBER, np.int64))
        self._uniforms = self._seen = self._banned = None
        if self._chooser.samples:
            drawn = [[slot.uniform(ahead) if slot else 0.0 for slot in slots] for ahead in range(steps)]
            self._uniforms = upload(np.array(drawn, np.float32))
        if self._chooser.penalizes:
            # Made on the device: the ids are few, the vocabulary is not. Its last column takes the padding.
            counted = upload(_padded([slot.counted if slot else [] for slot in slots], vocabulary))
            marks = torch.ones(counted.shape, dtype=torch.float32, device=counted.device)
            unmarked = torch.zeros((len(slots), vocabulary + 1), dtype=torch.float32, device=counted.device)
            self._seen = unmarked.scatter(1, counted, marks)[:, :vocabulary] > 0
            self._vocabulary = upload(np.arange(vocabulary)[None])
        if any(slot.options.ngram_size for slot in slots if slot):
            assert steps == 1
            banned = np.zeros((len(slots), vocabulary), np.float32)
            for row, slot in enumerate(slots):
                if slot and slot.options.ngram_size:
                    banned[row, repeating_tokens(slot.counted, slot.options.ngram_size)] = BANNED
            self._banned = upload(banned)

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (slots,) to go on with, and the same with NOT_A_NUMBER where logits (slots, vocabulary) are not."""
        uniform = None if self._uniforms is None else self._uniforms[self._step]
        tokens = self._chooser.choose(logits, uniform, self._seen, self._banned)
        self._step += 1
        if self._seen is not None:
            self._seen = torch.logical_or(self._seen, self._vocabulary == tokens[:, None])
        return tokens, torch.where(torch.isnan(logits).any(-1), self._wrong, tokens)


def _padded(ids: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Lists of ids as one array; padding, and ids that no logit belongs to, become `vocabulary`."""
    padded = np.full((len(ids), max(1, *map(len, ids))), vocabulary, np.int64)
    for row, own in enumerate(ids):
        padded[row, : len(own)] = np.minimum(own, vocabulary)
    return padded
