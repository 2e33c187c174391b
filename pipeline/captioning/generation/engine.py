"""The generation engine: greedy decoding and sampling with continuous batching, for requests of any length.

Requests are embeddings, answers are token ids. When an answer ends, its slot is free for the next request; it does not
wait for the longest answer of a batch. Knows nothing about videos, tokenizers and checkpoints. Beam search is in
`whole_batch`.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..backends import Backend
from ..backends.kernels import MASKED, score_mask
from .base_engine import BaseEngine
from .kv_cache import COLUMN_MULTIPLE, CacheShape, PrefixRecorder, SlotCache
from .prefill import next_group, padded
from .requests import OVERFLOW_MESSAGE, End, EndReason, Event, Request, Token
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

    prefill_tokens: prompt tokens, without padding and without the shared prefix.
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
    prefill_tokens: maximum number of tokens in one prefill, with padding; a longer prompt is prefilled alone.
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
        self._written = np.empty(0, np.int64)  # number of the step that last wrote each column of the ring buffer
        self._step_number = self._next_column = self._half_free_rounds = 0
        self._consecutive_prefills = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def requests_needed(self) -> int:
        return int(not self._keys)

    def add(self, request: Request) -> None:
        if request.options.num_beams > 1:
            raise ValueError(f"request {request.key!r} asks for beam search; use BatchEngine")
        self._accept(request, request.length + (self._prefix_length if request.has_prefix else 0))

    def cancel(self, key: Hashable) -> bool:
        self._slots = [None if slot and slot.key == key else slot for slot in self._slots]
        return super().cancel(key)

    def step(self) -> list[Event]:
        """One prefill of waiting requests, or decoding steps for all slots until the next check for ended answers.

        Waiting requests do not block active answers: decoding steps run between two prefills. Only an engine that
        was empty fills its slots first.
        """
        events = self._pop_rejected()
        active = list(self._active_slots.values())
        is_filling = self._consecutive_prefills < self._settings.slots and all(len(slot.ids) == 1 for slot in active)
        must_decode = active and self._consecutive_prefills and not is_filling
        free_slots = self._settings.slots - len(active)
        if self._waiting and free_slots and not must_decode:
            group = next_group(self._waiting, free_slots, self._settings.prefill_tokens)
            self._remove_waiting(group)
            events += self._prefill(group)
            self._consecutive_prefills += 1
        elif active:
            events += self._decode(active)
            self._consecutive_prefills = 0
        self._forget_ended(events)
        return events

    @property
    def _active_slots(self) -> dict[int, Slot]:
        """The slots that are not free, by index."""
        return {index: slot for index, slot in enumerate(self._slots) if slot}

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
        slots = [Slot(request, self._step_number) for request in group]
        _, reported = NextTokens(slots, self._model.vocabulary, 1, self._upload).choose(self._logits(torch.cat(last)))
        tokens = reported.cpu().numpy().tolist()
        self.stats.prefill_seconds += time.monotonic() - begin
        self.stats.prefill_tokens += sum(request.length for request in group)
        events: list[Event] = []
        for index, slot, token in zip(indices, slots, tokens, strict=True):
            self._slots[index] = slot
            events += self._append(index, token)
        return events

    def _decode(self, active: Sequence[Slot]) -> list[Event]:
        self._shrink_if_half_free(len(active))
        assert self._cache is not None
        begin = time.monotonic()
        has_ngram_rule = any(slot.options.ngram_size for slot in active)
        steps = 1 if has_ngram_rule else min(self._settings.check_every, *(slot.remaining for slot in active))
        tokens = self._upload(np.array([slot.ids[-1] if slot else 0 for slot in self._slots]))
        next_tokens = NextTokens(self._slots, self._model.vocabulary, steps, self._upload)
        generated = []
        for column, positions, mask in self._plan_steps(steps):
            hidden = self._hidden(self._cache.decode(column), positions, mask, input_ids=tokens[:, None])
            tokens, reported = next_tokens.choose(self._logits(hidden[:, -1]))
            generated.append(reported)
        rows = torch.stack(generated).cpu().numpy().tolist()
        self.stats.decode_seconds += time.monotonic() - begin
        self.stats.steps += steps
        self.stats.slot_steps += steps * len(self._slots)
        events: list[Event] = []
        for row in rows:
            for index, token in enumerate(row):
                if self._slots[index] is not None:
                    self.stats.decode_tokens += 1
                    events += self._append(index, token)
        return events

    def _plan_steps(self, steps: int) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        """For each of the next steps: column of the ring buffer, positions, mask. They do not depend on the tokens."""
        assert self._cache is not None
        shape = self._cache.shape
        prompt = shape.prefix + shape.ring  # first prompt column
        mask = np.full((shape.slots, shape.columns), MASKED, np.float32)
        positions = np.zeros((shape.slots, 1), np.int64)
        active = self._active_slots
        for row, slot in active.items():
            mask[row, : shape.prefix if slot.has_prefix else 0] = 0
            mask[row, shape.prefix : prompt][self._written >= slot.first_step] = 0
            mask[row, prompt : prompt + slot.length] = 0
            # The token to feed is the last one generated.
            positions[row] = slot.next_position + len(slot.ids) - 1
        plan = []
        for ahead in range(steps):
            column = self._next_column
            self._written[column] = self._step_number
            self._step_number += 1
            self._next_column = (column + 1) % shape.ring
            mask[:, shape.prefix + column] = 0  # for free slots too: every row must see at least one column
            step_mask = score_mask(self._upload(mask[:, None, None].copy()), self._backend.dtype)
            plan.append((column, self._upload(positions + ahead), step_mask))
        return plan

    def _append(self, index: int, token: int) -> list[Event]:
        """Append a token to a slot's answer; frees the slot if the answer ends with it."""
        slot = self._slots[index]
        assert slot is not None and self._cache is not None
        key, reason = slot.key, slot.append(token)
        if reason is None:
            return [Token(key, token)]
        self._slots[index] = None
        if reason is EndReason.NOT_A_NUMBER:
            self._cache.clear(index)
            return [End(key, slot.ids, reason, OVERFLOW_MESSAGE)]
        return [Token(key, token), End(key, slot.ids, reason)]

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

    def _shrink_if_half_free(self, active: int) -> None:
        """Release the memory of free slots after more than _SHRINK_AFTER rounds with at least half of the slots free.

        active: number of active slots.
        """
        assert self._cache is not None
        is_half_free = not self._waiting and 2 * active <= self._cache.shape.slots
        self._half_free_rounds = self._half_free_rounds + 1 if is_half_free else 0
        if self._half_free_rounds > _SHRINK_AFTER:
            self._resize(list(self._active_slots), active, *self._longest([]))

    def _longest(self, group: Sequence[Request]) -> tuple[int, int]:
        """Tokens of the longest prompt and of the longest answer, of `group` and of all current requests."""
        requests: list[Slot | Request] = [*self._active_slots.values(), *self._waiting, *group]
        return max(one.length for one in requests), max(one.options.max_new_tokens for one in requests)

    def _allocate(self, slots: int, prompt: int, new_tokens: int) -> None:
        """Make a new, empty cache."""
        self._cache = None  # two caches may not fit into memory
        shape = CacheShape.for_lengths(slots, self._prefix_length, prompt, new_tokens)
        config, backend = self._model.config, self._backend
        self._cache = SlotCache(config, shape, self._prefix.layers, backend.device, backend.dtype)
        self._slots = [None] * slots
        self._written = np.full(shape.ring, -1)
        self._next_column = 0

    def _resize(self, kept: Sequence[int], slots: int, prompt: int, new_tokens: int) -> None:
        """Change the cache's sizes.

        The ring buffer never becomes smaller, because needed columns can be anywhere in it. Its oldest column becomes
        the first one, so that additional columns come after the newest.
        """
        assert self._cache is not None
        ring = len(self._written)
        shape = CacheShape.for_lengths(slots, self._prefix_length, prompt, max(new_tokens, ring + 1))
        self._cache.resize(shape, kept, self._next_column)
        self._slots = [*(self._slots[index] for index in kept), *[None] * (slots - len(kept))]
        self._written = np.append(np.roll(self._written, -self._next_column), np.full(shape.ring - ring, -1))
        self._next_column = ring % shape.ring
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
