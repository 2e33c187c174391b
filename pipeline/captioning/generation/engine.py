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
from .kv_cache import COLUMN_MULTIPLE, CacheShape, PrefixRecorder, SlotCache
from .prefill import next_group, padded
from .requests import OVERFLOW_MESSAGE, End, EndReason, Event, Request, Token
from .ring import RingBuffer
from .slots import NextTokens, Slot
from .text_model import TextModel

_SHRINK_AFTER = 16
"""The cache is made smaller after more than this many decoding rounds with at least half of the slots free."""
_MAX_OVERSIZE = 4
"""Prompt columns beyond this multiple of the needed number are removed, because each decoding step reads all columns.
While no slot is active, this applies to the ring buffer too."""


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
    """

    slots: int
    check_every: int = 1
    prefill_tokens: int = 2048


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
        self._slots: list[Slot | None] = []
        self._cache: SlotCache | None = None
        self._dummy_position = self._upload(np.zeros(1, np.int64))  # transformers requires it, these caches ignore it
        self._prefix = PrefixRecorder()
        self._prefix_length = 0 if prefix is None else int(prefix.shape[1])
        if prefix is not None:
            positions = self._upload(np.arange(self._prefix_length)[None])
            self._hidden(self._prefix, positions, inputs_embeds=prefix)
        self._ring = RingBuffer()
        self._half_free_rounds = 0
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
        for index, slot in self._active_slots.items():
            if slot.key == key:
                self._release(index, slot)
        return super().cancel(key)

    def step(self) -> list[Event]:
        """One prefill of follow-ups, one prefill of waiting requests, or decoding steps for all slots until the next
        check for ended answers.

        Neither kind of prefill blocks active answers: decoding steps run between two of one kind. Only an engine in
        which no answer has begun fills its slots first. Follow-ups come before waiting requests, but do not delay them
        by more than one step.
        """
        events = self._pop_rejected()
        active = self._active_slots
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

    @property
    def _active_slots(self) -> dict[int, Slot]:
        """The slots that are not free, by index."""
        return {index: slot for index, slot in enumerate(self._slots) if slot}

    @property
    def _decoding_slots(self) -> list[Slot | None]:
        """All slots, with None in place of those that wait for the prefill of a follow-up."""
        return [slot if slot and slot.is_decoding else None for slot in self._slots]

    def _prefill(self, group: Sequence[Request]) -> list[Event]:
        begin = time.monotonic()
        indices = self._reserve_slots(group)
        assert self._cache is not None
        embeddings, positions = padded(group)
        if self._backend.dtype == torch.float16:
            # An infinite key, left by an overflow, makes scores NaN despite the mask. Wider types do not overflow.
            for index in indices:
                self._cache.clear(index)
        view = self._cache.prefill(indices, group[0].has_prefix)
        hidden = self._hidden(view, self._upload(positions), inputs_embeds=embeddings)
        last = [hidden[row : row + 1, request.length - 1] for row, request in enumerate(group)]
        slots = {index: Slot(request, self._ring.step_number) for index, request in zip(indices, group, strict=True)}
        for index, slot in slots.items():
            self._slots[index] = slot
        return self._begin_answers(slots, last, begin, sum(request.length for request in group))

    def _prefill_follow_ups(self, slots: Mapping[int, Slot]) -> list[Event]:
        begin = time.monotonic()
        cache = self._cache
        assert cache is not None
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
            slot.begin_answer(self._ring.step_number)
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
        self._shrink_if_half_free()
        assert self._cache is not None
        begin = time.monotonic()
        has_ngram_rule = any(slot.options.ngram_size for slot in decoding)
        steps = 1 if has_ngram_rule else min(self._settings.check_every, *(slot.remaining for slot in decoding))
        slots = self._decoding_slots
        tokens = self._upload(np.array([slot.ids[-1] if slot else 0 for slot in slots]))
        next_tokens = NextTokens(slots, self._model.vocabulary, steps, self._upload)
        generated = []
        plan = self._ring.plan(slots, self._cache.shape, steps)
        # All are uploaded before the first step, because an upload may wait for the device.
        masks = [score_mask(self._upload(step.mask), self._backend.dtype) for step in plan]
        positions = [self._upload(step.positions) for step in plan]
        for step, mask, step_positions in zip(plan, masks, positions, strict=True):
            hidden = self._hidden(self._cache.decode(step.column), step_positions, mask, input_ids=tokens[:, None])
            tokens, reported = next_tokens.choose(self._logits(hidden[:, -1]))
            generated.append(reported)
        rows = torch.stack(generated).cpu().numpy().tolist()
        self.stats.decode_seconds += time.monotonic() - begin
        self.stats.steps += steps
        self.stats.slot_steps += steps * len(self._slots)
        events: list[Event] = []
        for row in rows:
            for index, token in enumerate(row):
                slot = self._slots[index]
                if slot and slot.is_decoding:
                    self.stats.decode_tokens += 1
                    events += self._append(index, token)
        return events

    def _append(self, index: int, token: int) -> list[Event]:
        """Append a token to a slot's answer. If the answer ends with it, the slot waits for its next follow-up, or is
        free."""
        slot = self._slots[index]
        assert slot is not None and self._cache is not None
        key, question, reason = slot.key, slot.question, slot.append(token)
        if reason is None:
            return [Token(key, token, question)]
        message = OVERFLOW_MESSAGE if reason is EndReason.NOT_A_NUMBER else ""
        end = End(key, slot.ids, reason, message, question)
        if not slot.next_question(self._ring.step_number):
            self._release(index, slot)
        elif end.is_error:
            self._cache.clear(index, slot.shared)
        return [end] if end.is_error else [Token(key, token, question), end]

    def _release(self, index: int, slot: Slot) -> None:
        """Free a slot."""
        self._slots[index] = None
        if slot.has_failed:
            assert self._cache is not None
            self._cache.clear(index)

    def _reserve_slots(self, group: Sequence[Request]) -> list[int]:
        """Indices of free slots for `group`. Changes the cache so that it fits all current requests."""
        active = list(self._active_slots)
        prompt, new_tokens = self._longest(group)
        shape, needed = self._cache.shape if self._cache else None, len(active) + len(group)
        if shape is None or (not active and shape.ring + shape.prompt > _MAX_OVERSIZE * (prompt + new_tokens)):
            self._allocate(self._settings.slots, prompt, new_tokens)
        else:
            slots = shape.slots if needed <= shape.slots else min(self._settings.slots, 2 * needed)
            is_too_small = slots > shape.slots or prompt > shape.prompt or new_tokens - 1 > shape.ring
            if is_too_small or shape.prompt > _MAX_OVERSIZE * (prompt + COLUMN_MULTIPLE):
                self._resize(active, slots, prompt, new_tokens)
        return [index for index, slot in enumerate(self._slots) if slot is None][: len(group)]

    def _shrink_if_half_free(self) -> None:
        """Release the memory of free slots after more than _SHRINK_AFTER rounds with half of the slots free."""
        assert self._cache is not None
        active = len(self._active_slots)
        is_half_free = not self._waiting and 2 * active <= self._cache.shape.slots
        self._half_free_rounds = self._half_free_rounds + 1 if is_half_free else 0
        if self._half_free_rounds > _SHRINK_AFTER:
            self._resize(list(self._active_slots), active, *self._longest([]))

    def _longest(self, group: Sequence[Request]) -> tuple[int, int]:
        """Tokens of the longest prompt and of the longest answer, of `group` and of all current requests."""
        requests: list[Slot | Request] = [*self._active_slots.values(), *self._waiting, *group]
        return max(one.longest for one in requests), max(one.options.max_new_tokens for one in requests)

    def _allocate(self, slots: int, prompt: int, new_tokens: int) -> None:
        """Make a new, empty cache."""
        self._cache = None  # two caches may not fit into memory
        shape = CacheShape.for_lengths(slots, self._prefix_length, prompt, new_tokens)
        config, backend = self._model.config, self._backend
        self._cache = SlotCache(config, shape, self._prefix.layers, backend.device, backend.dtype)
        self._slots = [None] * slots
        self._ring.reset(shape.ring)

    def _resize(self, kept: Sequence[int], slots: int, prompt: int, new_tokens: int) -> None:
        """Change the cache's sizes.

        The ring buffer never becomes smaller, because needed columns can be anywhere in it. Its oldest column becomes
        the first one, so that additional columns come after the newest.
        """
        assert self._cache is not None
        ring = self._cache.shape.ring
        shape = CacheShape.for_lengths(slots, self._prefix_length, prompt, max(new_tokens, ring + 1))
        self._cache.resize(shape, kept, self._ring.next_column)
        self._ring.grow(shape.ring)
        self._slots = [*(self._slots[index] for index in kept), *[None] * (slots - len(kept))]
        self._half_free_rounds = 0

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
