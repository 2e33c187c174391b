"""The state of the engine's slots, and the choice of their next tokens. Knows nothing about models and caches."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch

from .requests import EndReason, FollowUp, Request
from .sampling import BANNED, Sampler, Upload, repeating_tokens, uniforms

NOT_A_NUMBER = -1
"""Reported in place of a token id if the slot's logits contain NaN."""


class Slot:
    """A request whose questions are being answered. Does not keep the prompt's embeddings, so their memory is free.

    key, options, has_prefix: of the request.
    question: number of the current question.
    shared: tokens of the request's prompt that all its questions begin with.
    length, next_position: of the current question's prompt.
    longest: tokens of the longest prompt of all questions.
    ids: token ids of the current answer that have been generated so far.
    first_step: number of the engine's decoding step that generates the second token of the answer; a prefill generates
        the first one.
    follow_up: the current question, if it waits for its prefill; else None.
    waits_since: the engine's decoding steps before the follow-up began to wait.
    """

    def __init__(self, request: Request, first_step: int) -> None:
        self.key, self.options, self.first_step = request.key, request.options, first_step
        self.question, self.shared, self.has_prefix = request.question, request.shared, request.has_prefix
        self.length, self.next_position, self.longest = request.length, request.next_position, request.longest
        self.ids: list[int] = []
        self.follow_up: FollowUp | None = None
        self.waits_since = 0
        self._follow_ups = deque(request.follow_ups)
        self._stop_ids, self._history_ids = request.stop_ids, request.history_ids
        self._uniforms = uniforms(request.stream, request.options) if request.options.samples else None

    @property
    def is_decoding(self) -> bool:
        """Whether the next token comes from a decoding step, and not from the prefill of a follow-up."""
        return self.follow_up is None

    def append(self, token: int) -> EndReason | None:
        """Append a token to the answer; returns the reason if the answer ends with it, else None."""
        if token == NOT_A_NUMBER:
            return EndReason.NOT_A_NUMBER
        self.ids.append(token)
        if token in self._stop_ids:
            return EndReason.STOP
        return EndReason.LENGTH if len(self.ids) == self.options.max_new_tokens else None

    def next_question(self, step: int) -> bool:
        """Replace the question, whose answer has ended, by the next one; returns whether there is one.

        step: decoding steps of the engine so far.
        """
        if not self._follow_ups:
            return False
        self.follow_up = follow_up = self._follow_ups.popleft()
        self.question, self.length = follow_up.question, self.shared + follow_up.length
        self.next_position, self._history_ids = follow_up.next_position, follow_up.history_ids
        self.ids, self.waits_since = [], step
        return True

    def begin_answer(self, step: int) -> None:
        """The follow-up that waited has been prefilled. step: number of the next decoding step."""
        self.follow_up, self.first_step = None, step

    @property
    def remaining(self) -> int:
        """Maximum number of tokens that can still be generated."""
        return self.options.max_new_tokens - len(self.ids)

    def uniform(self, ahead: int) -> float:
        """The random number for the token `ahead` positions after the next one; 0 for a greedy request."""
        return float(self._uniforms[len(self.ids) + ahead]) if self._uniforms is not None else 0.0

    @property
    def history(self) -> list[int]:
        """Token ids that the repetition penalty and the n-gram rule apply to."""
        return [*self._history_ids, *self.ids]


class NextTokens:
    """Chooses the next tokens of all slots for several consecutive steps, without copies to the host in between.

    slots: the slot of each row of the batch; None for a free slot, whose tokens are not used.
    vocabulary: number of logits.
    steps: number of tokens to choose for each slot. Must be 1 if a request has an n-gram rule: the host evaluates it.
    """

    def __init__(self, slots: Sequence[Slot | None], vocabulary: int, steps: int, upload: Upload) -> None:
        options = [slot.options if slot else None for slot in slots]
        self._sampler = Sampler(options, upload)
        self._step = 0
        self._not_a_number = upload(np.full(len(slots), NOT_A_NUMBER, np.int64))
        self._uniforms = self._seen = self._banned = None
        if self._sampler.samples:
            numbers = [[slot.uniform(ahead) if slot else 0.0 for slot in slots] for ahead in range(steps)]
            self._uniforms = upload(np.array(numbers, np.float32))
        if self._sampler.penalizes:
            # Built on the device, because uploading the few ids is cheaper than uploading (slots, vocabulary) values.
            # The additional last column receives the padding.
            history = upload(_padded([slot.history if slot else [] for slot in slots], vocabulary))
            marks = torch.ones(history.shape, dtype=torch.float32, device=history.device)
            unmarked = torch.zeros((len(slots), vocabulary + 1), dtype=torch.float32, device=history.device)
            self._seen = unmarked.scatter(1, history, marks)[:, :vocabulary] > 0
            self._vocabulary_ids = upload(np.arange(vocabulary)[None])
        if any(slot.options.ngram_size for slot in slots if slot):
            assert steps == 1
            banned = np.zeros((len(slots), vocabulary), np.float32)
            for row, slot in enumerate(slots):
                if slot and slot.options.ngram_size:
                    banned[row, repeating_tokens(slot.history, slot.options.ngram_size)] = BANNED
            self._banned = upload(banned)

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids (slots,) to feed to the next step, and the same ids with NOT_A_NUMBER where a slot has NaN logits.

        logits: (slots, vocabulary).
        """
        uniform = None if self._uniforms is None else self._uniforms[self._step]
        tokens = self._sampler.choose(logits, uniform, self._seen, self._banned)
        self._step += 1
        if self._seen is not None:
            self._seen = torch.logical_or(self._seen, self._vocabulary_ids == tokens[:, None])
        return tokens, torch.where(torch.isnan(logits).any(-1), self._not_a_number, tokens)


def _padded(ids: Sequence[Sequence[int]], vocabulary: int) -> np.ndarray:
    """Lists of ids as one array. Padding, and ids beyond the logits, become `vocabulary`."""
    padded = np.full((len(ids), max(1, *map(len, ids))), vocabulary, np.int64)
    for row, row_ids in enumerate(ids):
        padded[row, : len(row_ids)] = np.minimum(row_ids, vocabulary)
    return padded
