"""The generation engine: greedy decoding and sampling with continuous batching, for requests of any length.

Requests are embeddings, answers are token ids. When an answer ends, its slot continues with the next question of the
request, or is free for the next request; it does not wait for the longest answer of a batch. Knows nothing about
videos, tokenizers and checkpoints. Beam search is in `whole_batch`.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..backends import Backend
from ..backends.kernels import score_mask
from .base_engine import BaseEngine
from .follow_ups import next_follow_ups, passes
from .kv_cache import PrefixRecorder
from .prefill import next_group, padded
from .requests import OVERFLOW_MESSAGE, End, EndReason, Event, Request, Token
from .slot_table import SlotTable
from .slots import NextTokens, Slot
from .text_model import TextModel


@dataclass
class EngineStats:
    """Work and time of an engine. Times end when the device has finished the stage.

    prefill_tokens: tokens of prompts and of follow-ups, without padding and without the shared prefix.
    decode_tokens: tokens of answers from decoding steps; the first token of an answer comes from a prefill.
    steps: decoding steps.
    slot_steps: sum over the decoding steps of the number of slots, including free ones.
    """

    prefill_seconds: float = 0.0
    prefill_tokens: int = 0
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    steps: int = 0
    slot_steps: int = 0


@dataclass(frozen=True)
class EngineSettings:
    """Settings for speed and memory; the generated tokens do not depend on them.

    slots: maximum number of answers generated at the same time.
    check_every: decoding steps between two checks for ended answers.
    prefill_tokens: maximum number of tokens in one prefill, with padding; a longer prompt is prefilled alone. For
        follow-ups it is the number without padding.
    planned_tokens: answers of up to this many tokens have room in the cache from their begin. The cache grows with
        longer ones, because each decoding step reads all of it, and few answers reach a large `max_new_tokens`.
    """

    slots: int
    check_every: int = 1
    prefill_tokens: int = 2048
    planned_tokens: int = 512


class SlotEngine(BaseEngine):
    """Generates token ids for requests, each in a slot of the cache; see `requests.Engine`.

    model: a text model with the attention function of `attention`.
    prefix: embeddings (1, tokens, width) of the shared prefix, at positions from 0; its keys and values are computed
        once. None if there is no shared prefix.
    stats: existing figures to add to; None to start from 0.
    """

    def __init__(
        self,
        model: TextModel,
        backend: Backend,
        settings: EngineSettings,
        prefix: torch.Tensor | None = None,
        stats: EngineStats | None = None,
    ) -> None:
        super().__init__(settings.slots, model.limit)
        self._model, self._backend, self._settings = model, backend, settings
        self.stats = stats or EngineStats()
        self._dummy_position = self._upload(np.zeros(1, np.int64))  # transformers requires it, these caches ignore it
        self._prefix_length = 0 if prefix is None else int(prefix.shape[1])
        recorder = PrefixRecorder()
        if prefix is not None:
            positions = self._upload(np.arange(self._prefix_length)[None])
            self._hidden(recorder, positions, inputs_embeds=prefix)
        self._table = SlotTable(
            model.config,
            backend,
            settings.slots,
            settings.planned_tokens,
            recorder.layers,
            self._prefix_length,
        )
        self._consecutive_prefills = self._consecutive_follow_ups = 0  # prefills since the last decoding step

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def requests_needed(self) -> int:
        return int(not self._open)

    def add(self, request: Request) -> None:
        if request.options.num_beams > 1:
            raise ValueError(f"request {request.key!r} asks for beam search; use BatchEngine")
        self._accept(request, self._prefix_length if request.has_prefix else 0)

    def cancel(self, key: Hashable) -> bool:
        for index, slot in self._table.active.items():
            if slot.key == key:
                self._table.slots[index] = None
        return super().cancel(key)

    def step(self) -> list[Event]:
        """One prefill of follow-ups, one prefill of waiting requests, or decoding steps for all slots until the next
        check for ended answers.

        Neither kind of prefill blocks active answers: decoding steps run between two of one kind. Only an engine in
        which no answer has begun fills its slots first. Follow-ups come before waiting requests, but do not delay them
        by more than one step.
        """
        events = self._pop_rejected()
        active = self._table.active
        decoding = [slot for slot in active.values() if slot.is_decoding]
        free_slots = self._settings.slots - len(active)
        if len(decoding) < len(active) and not self._must_decode(decoding, self._consecutive_follow_ups):
            indices = next_follow_ups(active, self._settings.prefill_tokens)
            events += self._prefill_follow_ups({index: active[index] for index in indices})
            self._consecutive_follow_ups += 1
        elif self._waiting and free_slots and not self._must_decode(decoding, self._consecutive_prefills):
            group = next_group(self._waiting, free_slots, self._settings.prefill_tokens)
            self._remove_waiting(group)
            events += self._prefill(group)
            self._consecutive_prefills += 1
        elif decoding:
            events += self._decode(decoding)
            self._consecutive_prefills = self._consecutive_follow_ups = 0
        self._forget_ended(events)
        return events

    def _must_decode(self, decoding: Sequence[Slot], prefills: int) -> bool:
        """Whether active answers must continue before a further prefill.

        prefills: number of prefills of its kind since the last decoding step.
        """
        is_filling = prefills < self._settings.slots and all(len(slot.ids) == 1 for slot in decoding)
        return bool(decoding) and prefills > 0 and not is_filling

    def _prefill(self, group: Sequence[Request]) -> list[Event]:
        begin = time.monotonic()
        indices = self._table.reserve(group, self._waiting)
        cache = self._table.cache
        embeddings, positions = padded(group)
        if self._backend.dtype == torch.float16:
            # An infinite key, left by an overflow, makes scores NaN despite the mask. Wider types do not overflow.
            for index in indices:
                cache.clear(index)
        view = cache.prefill(indices, group[0].has_prefix)
        hidden = self._hidden(view, self._upload(positions), inputs_embeds=embeddings)
        last = [hidden[row : row + 1, request.length - 1] for row, request in enumerate(group)]
        slots = {
            index: Slot(request, self._table.ring.step_number) for index, request in zip(indices, group, strict=True)
        }
        for index, slot in slots.items():
            self._table.slots[index] = slot
        events = self._begin_answers(slots, last, begin, sum(request.length for request in group))
        failed = {event.key for event in events if isinstance(event, End) and event.is_error}
        for index, request in zip(indices, group, strict=True):
            if request.key in failed and request.follow_ups:
                # The shared tokens may be NaN too: in a causal product a later NaN has weight 0, but 0 x NaN is NaN.
                self._table.slots[index] = None
                cache.clear(index)
                self._waiting.insert(0, request.without({request.question}))
        return events

    def _prefill_follow_ups(self, slots: Mapping[int, Slot]) -> list[Event]:
        begin = time.monotonic()
        cache = self._table.cache
        if self._backend.dtype == torch.float16:  # as in `_prefill`
            for index, slot in slots.items():
                cache.clear(index, slot.shared)
        last: dict[int, torch.Tensor] = {}
        for one in passes(slots, cache.shape):
            mask = score_mask(self._upload(one.mask), self._backend.dtype)
            view = cache.extend(one.slots, one.begins, one.ends)
            hidden = self._hidden(view, self._upload(one.positions), mask, inputs_embeds=one.embeddings)
            for row, (index, token) in enumerate(zip(one.slots, one.last, strict=True)):
                if token is not None:
                    last[index] = hidden[row : row + 1, token]
        tokens = 0
        for slot in slots.values():
            tokens += slot.length - slot.shared
            slot.begin_answer(self._table.ring.step_number)
        return self._begin_answers(slots, [last[index] for index in slots], begin, tokens)

    def _begin_answers(
        self, slots: Mapping[int, Slot], last: Sequence[torch.Tensor], begin: float, tokens: int
    ) -> list[Event]:
        """Choose the first tokens of the answers after a prefill.

        last: for each of the slots, hidden state (1, width) of its prompt's last token.
        begin, tokens: time of the begin of the prefill, and its number of tokens.
        """
        next_tokens = NextTokens(list(slots.values()), self._model.vocabulary, 1, self._upload)
        _, reported = next_tokens.choose(self._logits(torch.cat(list(last))))
        ids = reported.cpu().numpy().tolist()
        self.stats.prefill_seconds += time.monotonic() - begin
        self.stats.prefill_tokens += tokens
        return [event for index, token in zip(slots, ids, strict=True) for event in self._append(index, token)]

    def _decode(self, decoding: Sequence[Slot]) -> list[Event]:
        begin = time.monotonic()
        has_ngram_rule = any(slot.options.ngram_size for slot in decoding)
        steps = 1 if has_ngram_rule else min(self._settings.check_every, *(slot.remaining for slot in decoding))
        self._table.before_steps(steps, self._waiting)
        table, cache = self._table, self._table.cache
        slots = table.decoding
        tokens = self._upload(np.array([slot.ids[-1] if slot else 0 for slot in slots]))
        next_tokens = NextTokens(slots, self._model.vocabulary, steps, self._upload)
        generated = []
        plan = table.ring.plan(slots, cache.shape, steps)
        # All are uploaded before the first step, because an upload may wait for the device.
        masks = [score_mask(self._upload(step.mask), self._backend.dtype) for step in plan]
        positions = [self._upload(step.positions) for step in plan]
        for step, mask, step_positions in zip(plan, masks, positions, strict=True):
            hidden = self._hidden(cache.decode(step.column), step_positions, mask, input_ids=tokens[:, None])
            tokens, reported = next_tokens.choose(self._logits(hidden[:, -1]))
            generated.append(reported)
        rows = torch.stack(generated).cpu().numpy().tolist()
        self.stats.decode_seconds += time.monotonic() - begin
        self.stats.steps += steps
        self.stats.slot_steps += steps * len(slots)
        events: list[Event] = []
        for row in rows:
            for index, token in enumerate(row):
                slot = table.slots[index]
                if slot and slot.is_decoding:
                    self.stats.decode_tokens += 1
                    events += self._append(index, token)
        return events

    def _append(self, index: int, token: int) -> list[Event]:
        """Append a token to a slot's answer. If the answer ends with it, the slot waits for its next follow-up, or is
        free."""
        slot = self._table.slots[index]
        assert slot is not None
        key, question, reason = slot.key, slot.question, slot.append(token)
        if reason is None:
            return [Token(key, token, question)]
        message = OVERFLOW_MESSAGE if reason is EndReason.NOT_A_NUMBER else ""
        end = End(key, slot.ids, reason, message, question)
        has_next = slot.next_question(self._table.ring.step_number)
        if not has_next:
            self._table.slots[index] = None
        if end.is_error:
            self._table.cache.clear(index, slot.shared if has_next else 0)
            return [end]
        return [Token(key, token, question), end]

    def _hidden(
        self,
        cache: object,
        positions: torch.Tensor,
        mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states (batch, tokens, width)."""
        with torch.no_grad():
            output = self._model.decoder(
                input_ids=input_ids,
                inputs_embeds=inputs_embeds,
                attention_mask=mask,
                position_ids=positions,
                cache_position=self._dummy_position,
                past_key_values=cache,
                use_cache=True,
            )
        return output.last_hidden_state

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(batch, vocabulary) from (batch, width)."""
        with torch.no_grad():
            return self._model.head(hidden)

    def _upload(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._backend.device)
