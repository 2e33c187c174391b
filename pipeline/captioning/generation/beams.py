"""Beam search with transformers' `generate`: one step generates the answers of a whole batch.

Has the same interface as `engine.SlotEngine`. Knows nothing about videos and tokenizers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from .base_engine import BaseEngine
from .engine import EngineStats
from .requests import OVERFLOW_MESSAGE, End, EndReason, Event, Request, Token
from .text_model import TextModel


class BatchEngine(BaseEngine):
    """Generates for a batch of up to `slots` requests; see `requests.Engine`. One step ends the whole batch.

    Prompts with different lengths, options or stop ids go into different batches, because `generate` takes one length
    and one set of options for a batch. A request must contain its whole prompt, at positions 0, 1, 2, ... on one axis,
    and no `history_ids`: `generate` gets only embeddings.

    model: a causal model of transformers.
    """

    def __init__(self, model: PreTrainedModel, slots: int, stats: EngineStats | None = None) -> None:
        super().__init__(slots, TextModel.of(model).max_positions)
        self._model, self._slots = model, slots
        self.stats = stats or EngineStats()

    @property
    def waiting(self) -> int:
        return 0

    @property
    def requests_needed(self) -> int:
        return self.free

    def add(self, request: Request) -> None:
        counts_from_0 = np.array_equal(request.positions, np.arange(request.length))
        if request.has_prefix or request.history_ids or not counts_from_0 or request.next_position != request.length:
            raise ValueError(f"request {request.key!r} needs SlotEngine: it has a prefix, history ids or own positions")
        self._accept(request, request.length)

    def step(self) -> list[Event]:
        """Generate for the oldest request and up to `slots` - 1 others that can share its batch; all of them end."""
        events = self._pop_rejected()
        if self._waiting:
            events += self._run_oldest_batch()
        self._forget_ended(events)
        return events

    def _run_oldest_batch(self) -> list[Event]:
        key = _batch_key(self._waiting[0])
        batch = [request for request in self._waiting if _batch_key(request) == key][: self._slots]
        begin = time.monotonic()
        answers = self._generate(batch)
        self.stats.decode_seconds += time.monotonic() - begin
        self.stats.decode_tokens += sum(len(ids) for ids, _ in answers)
        self._remove_waiting(batch)
        events: list[Event] = []
        for request, (ids, has_nan) in zip(batch, answers, strict=True):
            if has_nan:
                events.append(End(request.key, [], EndReason.NOT_A_NUMBER, OVERFLOW_MESSAGE))
                continue
            events += [Token(request.key, token) for token in ids]
            reason = EndReason.STOP if ids[-1] in request.stop_ids else EndReason.LENGTH
            events.append(End(request.key, ids, reason))
        return events

    def _generate(self, batch: Sequence[Request]) -> list[tuple[list[int], bool]]:
        """For each prompt: new token ids of the best beam up to the first stop id, and whether a score was NaN."""
        embeddings = torch.stack([request.embeddings for request in batch])
        options, stop_ids = batch[0].options, sorted(batch[0].stop_ids)
        config = GenerationConfig(
            max_new_tokens=options.max_new_tokens,
            num_beams=options.num_beams,
            do_sample=False,
            repetition_penalty=options.penalty,
            no_repeat_ngram_size=options.ngram_size,
            eos_token_id=stop_ids or None,
            pad_token_id=stop_ids[0] if stop_ids else 0,
        )
        monitor = _StepMonitor(len(batch), self.on_token)
        with torch.no_grad():
            generated = self._model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([monitor]),
            )
        answers = [_up_to_stop(ids, batch[0].stop_ids) for ids in generated.cpu().numpy().tolist()]
        return [(ids, has_nan) for ids, has_nan in zip(answers, monitor.has_nan(), strict=True)]


class _StepMonitor(LogitsProcessor):
    """Runs in every step of `generate`: records which prompts have NaN scores, and calls `on_token`."""

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


def _batch_key(request: Request) -> tuple[object, ...]:
    return request.length, request.options, request.stop_ids


def _up_to_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    ends = (position for position, token in enumerate(ids) if token in stop_ids)
    return ids[: next(ends, len(ids) - 1) + 1]
