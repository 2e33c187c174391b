"""Whole-batch generation with transformers' `generate`: beam search, a whole batch in one step.

Driven like the engine of slots; knows no video and no tokenizer.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

from .engine import EngineTally
from .requests import End, EndReason, Event, Request, Token


class BatchEngine:
    """Generates for up to `slots` requests at once; see `requests.Engine`. One step ends all of them.

    Prompts of different lengths or options come one after the other, because `generate` has one length for a
    batch, and no shared prefix: requests bring their whole prompt.

    model: a causal model of transformers.
    """

    def __init__(self, model: PreTrainedModel, slots: int, tally: EngineTally | None = None) -> None:
        self._model, self._slots = model, slots
        self.tally = tally or EngineTally()
        self._requests: list[Request] = []

    @property
    def free(self) -> int:
        return max(0, self._slots - len(self._requests))

    @property
    def active(self) -> int:
        return len(self._requests)

    @property
    def waiting(self) -> int:
        return 0

    @property
    def wanted(self) -> int:
        return self.free

    def add(self, request: Request) -> None:
        if any(request.key == other.key for other in self._requests):
            raise ValueError(f"request {request.key!r} is there already")
        assert not request.has_prefix, "beams have no shared prefix"
        self._requests.append(request)

    def cancel(self, key: Hashable) -> bool:
        found = any(request.key == key for request in self._requests)
        self._requests = [request for request in self._requests if request.key != key]
        return found

    def step(self) -> list[Event]:
        """Generate for the oldest requests that are alike, at most `slots`; nothing of them is left afterwards."""
        if not self._requests:
            return []
        kind = _kind(self._requests[0])
        batch = [request for request in self._requests if _kind(request) == kind][: self._slots]
        begin = time.monotonic()
        answers = self._generate(batch)
        self.tally.decode_seconds += time.monotonic() - begin
        self.tally.decode_tokens += sum(map(len, answers))
        done = {request.key for request in batch}
        self._requests = [request for request in self._requests if request.key not in done]
        events: list[Event] = []
        for request, ids in zip(batch, answers, strict=True):
            events += [Token(request.key, token) for token in ids]
            reason = EndReason.STOP if ids[-1] in request.stop_ids else EndReason.LENGTH
            events.append(End(request.key, ids, reason))
        return events

    def _generate(self, batch: Sequence[Request]) -> list[list[int]]:
        """New token ids of each prompt's best beam, up to and including the first stop id."""
        embeddings = torch.stack([request.embeddings for request in batch])
        options, stop_ids = batch[0].options, sorted(batch[0].stop_ids)
        config = GenerationConfig(
            max_new_tokens=options.max_new_tokens,
            num_beams=options.num_beams,
            do_sample=False,
            repetition_penalty=options.penalty,
            no_repeat_ngram_size=options.ngram_size,
            eos_token_id=stop_ids,
            pad_token_id=stop_ids[0],
        )
        with torch.no_grad():
            generated = self._model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device),
                generation_config=config,
            )
        return [_until_stop(ids, batch[0].stop_ids) for ids in generated.cpu().numpy().tolist()]


def _kind(request: Request) -> tuple[object, ...]:
    return request.length, request.options, request.stop_ids


def _until_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    ends = (position for position, token in enumerate(ids) if token in stop_ids)
    return ids[: next(ends, len(ids) - 1) + 1]
