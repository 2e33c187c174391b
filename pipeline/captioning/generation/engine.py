"""The generation engine: greedy decoding and sampling for requests of any length, over slots that refill.

Requests come in as embeddings, token ids go out. An answer that ends gives its slot to the next request; it does
not wait for the longest answer of a batch. Knows no video, no tokenizer and no checkpoint. Beam search is in
`beams`.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..backends import Backend
from ..backends.kernels import HIDDEN, score_mask
from .base_engine import BaseEngine
from .kv_cache import COLUMN_MULTIPLE, CacheShape, PrefixRecorder, SlotCache
from .prefill import next_group, padded
from .requests import OVERFLOW_MESSAGE, End, EndReason, Event, Request, Token
from .slots import NextTokens, Slot
from .text_model import TextModel

_SHRINK_AFTER = 16
"""Rounds of decoding with half of the slots free before the cache gives their memory back."""
_FAR_TOO_LARGE = 4
"""A room with so many times the columns that are needed becomes smaller: each decoding step reads all of them."""


@dataclass
class EngineStats:
    """What the engine did; seconds are those of the device, waited for at the end of each stage.

    steps: decoding steps; slot_steps: the same times the slots they ran over; decode_tokens: those of
        them that were in an answer; first tokens come from prefills.
    """

    prefill_seconds: float = 0.0
    prefill_tokens: int = 0
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    steps: int = 0
    slot_steps: int = 0


@dataclass(frozen=True)
class EngineSettings:
    """How the engine works; what it generates does not depend on it.

    slots: answers generated at once.
    check_every: decoding steps between two looks at what has ended.
    prefill_tokens: prompts are prefilled together up to so many tokens, one prompt at least.
    """

    slots: int
    check_every: int = 1
    prefill_tokens: int = 2048


class SlotEngine(BaseEngine):
    """Generates token ids for requests, each in a slot of the cache; see `requests.Engine`.

    model: with the attention of `attention`.
    prefix: embeddings (1, tokens, width) that requests may begin with, at positions from 0. Their keys and
        values are computed once. None for none.
    stats: counts on in an existing one.
    """

    def __init__(
        self,
        model: TextModel,
        backend: Backend,
        settings: EngineSettings,
        prefix: torch.Tensor | None = None,
        stats: EngineStats | None = None,
    ) -> None:
        super().__init__(settings.slots, model.max_positions)
        self._model, self._backend, self._settings = model, backend, settings
        self.stats = stats or EngineStats()
        self._slots: list[Slot | None] = []
        self._cache: SlotCache | None = None
        self._no_position = self._upload(np.zeros(1, np.int64))  # transformers asks for one, ours need none
        self._prefix = PrefixRecorder()
        self._prefix_length = 0 if prefix is None else int(prefix.shape[1])
        if prefix is not None:
            positions = self._upload(np.arange(self._prefix_length)[None])
            self._hidden(self._prefix, positions, inputs_embeds=prefix)
        self._written = np.empty(0, np.int64)  # the step that last wrote each column of the ring
        self._step_number = self._next_column = self._quiet_rounds = 0
        self._prefills = 0  # in a row

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def requests_needed(self) -> int:
        return int(not self._keys)

    def add(self, request: Request) -> None:
        if request.options.num_beams > 1:
            raise ValueError(f"request {request.key!r} asks for beams; BatchEngine has them")
        self._accept(request, request.length + (self._prefix_length if request.has_prefix else 0))

    def cancel(self, key: Hashable) -> bool:
        self._slots = [None if slot and slot.key == key else slot for slot in self._slots]
        return super().cancel(key)

    def step(self) -> list[Event]:
        """One prefill of waiting requests, or decoding steps for all slots up to the next look at what has ended.

        Answers that have begun are not held up by a queue of prefills: decoding steps come between two of them. Only
        an empty engine fills its slots first.
        """
        events = self._take_refused()
        begun = list(self._begun.values())
        fills_up = self._prefills < self._settings.slots and all(len(slot.ids) == 1 for slot in begun)
        must_decode = begun and self._prefills and not fills_up
        room = self._settings.slots - len(begun)
        if self._waiting and room and not must_decode:
            group = next_group(self._waiting, room, self._settings.prefill_tokens)
            self._take(group)
            events += self._prefill(group)
            self._prefills += 1
        elif begun:
            events += self._decode(begun)
            self._prefills = 0
        self._forget_ended(events)
        return events

    @property
    def _begun(self) -> dict[int, Slot]:
        """The slots in use, by index."""
        return {index: slot for index, slot in enumerate(self._slots) if slot}

    def _prefill(self, group: Sequence[Request]) -> list[Event]:
        begin = time.monotonic()
        indices = self._make_room(group)
        assert self._cache is not None
        embeddings, positions = padded(group)
        if self._backend.dtype == torch.float16:
            # A key that has overflowed is infinite, and no mask hides it. Wider types do not overflow.
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

    def _decode(self, begun: Sequence[Slot]) -> list[Event]:
        self._shrink(len(begun))
        assert self._cache is not None
        begin = time.monotonic()
        looks_always = any(slot.options.ngram_size for slot in begun)
        steps = 1 if looks_always else min(self._settings.check_every, *(slot.left for slot in begun))
        tokens = self._upload(np.array([slot.ids[-1] if slot else 0 for slot in self._slots]))
        chosen = NextTokens(self._slots, self._model.vocabulary, steps, self._upload)
        generated = []
        for column, positions, mask in self._plan(steps):
            hidden = self._hidden(self._cache.decode(column), positions, mask, input_ids=tokens[:, None])
            tokens, reported = chosen.choose(self._logits(hidden[:, -1]))
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

    def _plan(self, steps: int) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        """Column of the ring, positions and mask of each of the next steps, which all are known before the first."""
        assert self._cache is not None
        shape = self._cache.shape
        room = shape.prefix + shape.ring
        mask = np.full((shape.slots, shape.columns), HIDDEN, np.float32)
        positions = np.zeros((shape.slots, 1), np.int64)
        begun = self._begun
        for row, slot in begun.items():
            mask[row, : shape.prefix if slot.has_prefix else 0] = 0
            mask[row, shape.prefix : room][self._written >= slot.start] = 0
            mask[row, room : room + slot.length] = 0
            # A token is fed at the position that it was generated for.
            positions[row] = slot.next_position + len(slot.ids) - 1
        plan = []
        for ahead in range(steps):
            column = self._next_column
            self._written[column] = self._step_number
            self._step_number += 1
            self._next_column = (column + 1) % shape.ring
            mask[:, shape.prefix + column] = 0  # of free slots too: no row sees nothing at all
            shown = score_mask(self._upload(mask[:, None, None].copy()), self._backend.dtype)
            plan.append((column, self._upload(positions + ahead), shown))
        return plan

    def _append(self, index: int, token: int) -> list[Event]:
        """Give a token to a slot's answer; the slot is free if the answer ends with it."""
        slot = self._slots[index]
        assert slot is not None and self._cache is not None
        key, reason = slot.key, slot.end_with(token)
        if reason is None:
            return [Token(key, token)]
        self._slots[index] = None
        if reason is EndReason.NOT_A_NUMBER:
            self._cache.clear(index)
            return [End(key, slot.ids, reason, OVERFLOW_MESSAGE)]
        return [Token(key, token), End(key, slot.ids, reason)]

    def _make_room(self, group: Sequence[Request]) -> list[int]:
        """Indices of free slots for `group`, in a cache that suits all requests that are there."""
        begun = list(self._begun)
        prompt, new_tokens = self._longest(group)
        shape, needed = self._cache.shape if self._cache else None, len(begun) + len(group)
        if shape is None or (not begun and shape.ring + shape.room > _FAR_TOO_LARGE * (prompt + new_tokens)):
            self._allocate(self._settings.slots, prompt, new_tokens)
        else:
            slots = shape.slots if needed <= shape.slots else min(self._settings.slots, 2 * needed)
            is_too_small = slots > shape.slots or prompt > shape.room or new_tokens - 1 > shape.ring
            if is_too_small or shape.room > _FAR_TOO_LARGE * (prompt + COLUMN_MULTIPLE):
                self._resize(begun, slots, prompt, new_tokens)
        return [index for index, slot in enumerate(self._slots) if slot is None][: len(group)]

    def _shrink(self, begun: int) -> None:
        """Give the memory of free slots back, when half of all or more have been free for long."""
        assert self._cache is not None
        is_quiet = not self._waiting and 2 * begun <= self._cache.shape.slots
        self._quiet_rounds = self._quiet_rounds + 1 if is_quiet else 0
        if self._quiet_rounds > _SHRINK_AFTER:
            self._resize(list(self._begun), begun, *self._longest([]))

    def _longest(self, group: Sequence[Request]) -> tuple[int, int]:
        """Tokens of the longest prompt and of the longest answer, of `group` and of all requests that are there."""
        there: list[Slot | Request] = [*self._begun.values(), *self._waiting, *group]
        return max(one.length for one in there), max(one.options.max_new_tokens for one in there)

    def _allocate(self, slots: int, prompt: int, new_tokens: int) -> None:
        """A new, empty cache."""
        self._cache = None  # two of them may not fit
        shape = CacheShape.for_lengths(slots, self._prefix_length, prompt, new_tokens)
        config, backend = self._model.config, self._backend
        self._cache = SlotCache(config, shape, self._prefix.layers, backend.device, backend.dtype)
        self._slots = [None] * slots
        self._written = np.full(shape.ring, -1)
        self._next_column = 0

    def _resize(self, kept: Sequence[int], slots: int, prompt: int, new_tokens: int) -> None:
        """Change the cache's sizes. The ring never becomes smaller: columns that are needed lie anywhere in it. Its
        oldest column becomes the first one, so that a longer ring grows behind the newest."""
        assert self._cache is not None
        ring = len(self._written)
        shape = CacheShape.for_lengths(slots, self._prefix_length, prompt, max(new_tokens, ring + 1))
        self._cache.resize(shape, kept, self._next_column)
        self._slots = [*(self._slots[index] for index in kept), *[None] * (slots - len(kept))]
        self._written = np.append(np.roll(self._written, -self._next_column), np.full(shape.ring - ring, -1))
        self._next_column = ring % shape.ring
        self._quiet_rounds = 0

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
                cache_position=self._no_position,
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
