"""Whole-batch generation with transformers' `generate`: beam search, a whole batch in one step.

Driven like the engine of slots; knows no video and no tokenizer.
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
    """Generates for up to `slots` requests at once; see `requests.Engine`. One step ends all of them.

    Prompts of different lengths or options come one after the other, because `generate` has one length for a
    batch. Requests bring their whole prompt at positions from 0 on one axis, and no ids of it are counted:
    `generate` sees embeddings alone.

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
        is_plain = np.array_equal(request.positions, np.arange(request.length))
        if request.has_prefix or request.counted_ids or not is_plain or request.next_position != request.length:
            raise ValueError(f"request {request.key!r} needs the engine of slots: prefix, counted ids or positions")
        self._accept(request, request.length)

    def step(self) -> list[Event]:
        """Generate for the oldest requests that are alike, at most `slots`; nothing of them is left afterwards."""
        events = self._take_refused()
        if self._waiting:
            events += self._answer_oldest()
        self._forget_ended(events)
        return events

    def _answer_oldest(self) -> list[Event]:
        kind = _kind(self._waiting[0])
        batch = [request for request in self._waiting if _kind(request) == kind][: self._slots]
        begin = time.monotonic()
        answers = self._generate(batch)
        self.stats.decode_seconds += time.monotonic() - begin
        self.stats.decode_tokens += sum(len(ids) for ids, _ in answers)
        self._take(batch)
        events: list[Event] = []
        for request, (ids, is_wrong) in zip(batch, answers, strict=True):
            if is_wrong:
                events.append(End(request.key, [], EndReason.NOT_A_NUMBER, OVERFLOW_MESSAGE))
                continue
            events += [Token(request.key, token) for token in ids]
            reason = EndReason.STOP if ids[-1] in request.stop_ids else EndReason.LENGTH
            events.append(End(request.key, ids, reason))
        return events

    def _generate(self, batch: Sequence[Request]) -> list[tuple[list[int], bool]]:
        """For each prompt the new token ids of its best beam, to its first stop id, and whether a score was wrong."""
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
        watch = _StepWatch(len(batch), self.on_token)
        with torch.no_grad():
            generated = self._model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([watch]),
            )
        answers = [_until_stop(ids, batch[0].stop_ids) for ids in generated.cpu().numpy().tolist()]
        return [(ids, is_wrong) for ids, is_wrong in zip(answers, watch.is_wrong(), strict=True)]


class _StepWatch(LogitsProcessor):
    """Sees every step of `generate`: notes which prompts get scores that are not numbers, and tells of progress."""

    def __init__(self, prompts: int, on_token: Callable[[], None]) -> None:
        self._prompts, self._on_token = prompts, on_token
        self._wrong: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # The beams of a prompt stand together; scores of -infinity are numbers here.
        wrong = torch.isnan(scores).reshape(self._prompts, -1).any(-1)
        self._wrong = wrong if self._wrong is None else self._wrong | wrong
        self._on_token()
        return scores

    def is_wrong(self) -> list[bool]:
        """For each prompt, whether a score was not a number."""
        assert self._wrong is not None
        return [bool(wrong) for wrong in self._wrong.cpu().numpy()]


def _kind(request: Request) -> tuple[object, ...]:
    return request.length, request.options, request.stop_ids


def _until_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    ends = (position for position, token in enumerate(ids) if token in stop_ids)
    return ids[: next(ends, len(ids) - 1) + 1]
