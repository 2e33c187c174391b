"""The generation engine: greedy decoding and sampling over slots that are never left empty.

Prompts come in as embeddings, token ids go out, each caption as soon as it ends; its slot then takes the
next prompt instead of waiting for the longest caption of a batch. Knows no video, no tokenizer and no
checkpoint. Beams go another way: see `beams`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from ..backends import Backend
from .kv_cache import PrefixRecorder, SlotCache
from .options import GenerationOptions
from .sampling import choose, uniforms

_COLUMN_MULTIPLE = 16  # of the cache's length, which matrix units like
_HIDDEN = -1e30


@dataclass(frozen=True)
class PromptBatch:
    """Prompts ready for prefill.

    rows: index in the meta table of each; names its result and fixes what is sampled.
    embeddings: (prompts, length without the shared prefix, width).
    """

    rows: Sequence[int]
    embeddings: torch.Tensor


class PromptSource(Protocol):
    """Where the engine takes its prompts from."""

    def take(self, limit: int, wait: bool) -> PromptBatch | None:
        """At most `limit` prompts. None if there are none at the moment, or, when told to wait, no more at all."""

    @property
    def exhausted(self) -> bool:
        """Whether nothing will come any more."""


@dataclass(frozen=True)
class GeneratedTokens:
    """Token ids of one prompt, up to and including the one that stopped it."""

    row: int
    ids: list[int]


@dataclass
class EngineTally:
    """What the engine did; seconds are those of the device, waited for at the end of each stage.

    steps: decoding steps; slot_steps: the same times the slots they ran over; decode_tokens: those of
        them that were in a caption; first tokens come from prefills.
    """

    prefill_seconds: float = 0.0
    prefill_tokens: int = 0
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    steps: int = 0
    slot_steps: int = 0


@dataclass(frozen=True)
class EngineSettings:
    """How the engine goes about it; what comes out does not depend on it.

    slots: captions generated at once.
    check_every: decoding steps between two looks at what has ended.
    prefill_tokens: prompts are prefilled together up to so many tokens, one at least.
    refill: fill a slot as soon as it is free; otherwise when all are.
    """

    slots: int
    check_every: int = 1
    prefill_tokens: int = 2048
    refill: bool = True


@dataclass
class _Slot:
    """A caption in the making. start: the first decoding step that is its own."""

    row: int
    start: int
    ids: list[int] = field(default_factory=list)
    uniforms: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


class GenerationEngine:
    """Generates token ids for prompts of one length.

    model: a causal text model of transformers' Llama kind, with the attention of `attention`.
    prefix: embeddings (1, tokens, width) that every prompt begins with, whose keys and values are
        computed once; None for none. Prompts come without it.
    length: tokens of a prompt with its prefix.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        backend: Backend,
        options: GenerationOptions,
        stop_ids: Sequence[int],
        prefix: torch.Tensor | None,
        length: int,
        settings: EngineSettings,
        tally: EngineTally | None = None,
    ) -> None:
        self._model, self._backend, self._options = model, backend, options
        self._stop_ids = frozenset(stop_ids)
        self._length, self._settings = length, settings
        self.tally = tally or EngineTally()
        self._no_position = self._upload(np.zeros(1, np.int64))  # transformers asks for one, ours need none
        recorder = PrefixRecorder()
        if prefix is not None:
            positions = self._upload(np.arange(prefix.shape[1])[None])
            self._forward(inputs_embeds=prefix, cache=recorder, positions=positions)
        self._prefix_length = 0 if prefix is None else int(prefix.shape[1])
        columns = cache_columns(length, options)
        self._cache = SlotCache(model.config, settings.slots, columns, recorder.layers, backend.device, backend.dtype)
        self._slots: list[_Slot | None] = [None] * settings.slots
        self._written = np.full(columns, -1)  # the step that last wrote each column
        self._step = 0

    def run(self, prompts: PromptSource) -> Iterator[GeneratedTokens]:
        """Generate for all prompts, in the order in which captions end."""
        while True:
            yield from self._refill(prompts)
            if not self._active:
                return
            yield from self._decode()

    def rehearse(self, prompts: PromptSource) -> None:
        """Go through the first prefill and decoding steps, to see whether memory bears them."""
        together = max(1, self._settings.prefill_tokens // self._length)
        batch = prompts.take(min(together, len(self._slots)), wait=True)
        assert batch is not None
        for _ in self._prefill(range(len(batch.rows)), batch):
            pass
        if self._active:
            for _ in self._decode():
                pass

    @property
    def _active(self) -> list[int]:
        return [i for i, slot in enumerate(self._slots) if slot is not None]

    @property
    def _free(self) -> list[int]:
        return [i for i, slot in enumerate(self._slots) if slot is None]

    def _refill(self, prompts: PromptSource) -> Iterator[GeneratedTokens]:
        together = max(1, self._settings.prefill_tokens // self._length)
        free = self._free
        if not self._settings.refill and len(free) < len(self._slots):
            return
        while free:
            batch = prompts.take(min(len(free), together), wait=len(free) == len(self._slots))
            if batch is None:
                break
            yield from self._prefill(free[: len(batch.rows)], batch)
            free = self._free
        if prompts.exhausted:
            self._shrink()

    def _shrink(self) -> None:
        """Nothing is left to fill free slots with: leave them out, when they are half of all or more."""
        active = self._active
        if active and 2 * len(active) <= len(self._slots):
            self._cache.keep(active)
            self._slots = [self._slots[i] for i in active]

    def _prefill(self, slots: Sequence[int], batch: PromptBatch) -> Iterator[GeneratedTokens]:
        begin = time.monotonic()
        logits = self._forward(
            inputs_embeds=batch.embeddings,
            cache=self._cache.prefill(slots),
            positions=self._upload(np.arange(self._prefix_length, self._length)[None]),
        )
        filled = [_Slot(row, self._step) for row in batch.rows]
        uniform = None
        if self._options.samples:
            for slot in filled:
                slot.uniforms = uniforms(slot.row, self._options)
            uniform = self._upload(np.array([slot.uniforms[0] for slot in filled]))
        first = choose(logits, uniform, self._options).cpu().numpy()
        _check(filled, logits)
        self.tally.prefill_seconds += time.monotonic() - begin
        self.tally.prefill_tokens += (self._length - self._prefix_length) * len(slots)
        for index, slot, token in zip(slots, filled, first.tolist(), strict=True):
            self._slots[index] = slot
            if self._append(index, token):
                yield self._leave(index)

    def _decode(self) -> Iterator[GeneratedTokens]:
        """Decoding steps for all slots, until the next look at what has ended."""
        begin = time.monotonic()
        active = [slot for slot in self._slots if slot is not None]
        left = self._options.max_new_tokens - max(len(slot.ids) for slot in active)
        steps = min(self._settings.check_every, left)
        tokens = self._upload(np.array([slot.ids[-1] if slot else 0 for slot in self._slots]))
        uploads = [self._plan_step(ahead) for ahead in range(steps)]
        generated = []
        for column, positions, mask, uniform in uploads:
            logits = self._forward(
                input_ids=tokens[:, None], cache=self._cache.decode(column), positions=positions, mask=mask
            )
            tokens = choose(logits, uniform, self._options)
            generated.append(tokens)
        rows = torch.stack(generated).cpu().numpy().tolist()
        _check(self._slots, logits)  # once not a number, always not a number
        self.tally.decode_seconds += time.monotonic() - begin
        self.tally.steps += steps
        self.tally.slot_steps += steps * len(self._slots)
        for row in rows:
            for index, token in enumerate(row):
                if self._slots[index] is not None:
                    self.tally.decode_tokens += 1
                    if self._append(index, token):
                        yield self._leave(index)

    def _plan_step(self, ahead: int) -> tuple[int, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Column, positions, mask and random numbers of the next step; `ahead` steps follow the last look."""
        ring = len(self._written) - self._length
        column = self._length + self._step % ring
        self._written[column] = self._step
        self._step += 1
        never = self._step
        start = np.array([slot.start if slot else never for slot in self._slots])
        visible = self._written[None] >= start[:, None]
        visible[:, : self._length] = True
        mask = np.where(visible, np.float32(0), np.float32(_HIDDEN))[:, None, None]
        # Token n of a caption is fed at position length + n.
        fed = np.array([len(slot.ids) - 1 + ahead if slot else 0 for slot in self._slots])
        uniform = None
        if self._options.samples:
            drawn = [slot.uniforms[n + 1] if slot else 0.0 for slot, n in zip(self._slots, fed, strict=True)]
            uniform = self._upload(np.array(drawn, np.float32))
        return column, self._upload((self._length + fed)[:, None]), self._upload(mask), uniform

    def _append(self, index: int, token: int) -> bool:
        """Add a token to a slot's caption; returns whether it has ended."""
        slot = self._slots[index]
        assert slot is not None
        slot.ids.append(token)
        return token in self._stop_ids or len(slot.ids) == self._options.max_new_tokens

    def _leave(self, index: int) -> GeneratedTokens:
        slot = self._slots[index]
        assert slot is not None
        self._slots[index] = None
        return GeneratedTokens(slot.row, slot.ids)

    def _forward(
        self,
        cache: object,
        positions: torch.Tensor,
        mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (batch, vocabulary) of the last position."""
        with torch.no_grad():
            output = self._model(
                input_ids=input_ids,
                inputs_embeds=inputs_embeds,
                attention_mask=mask,
                position_ids=positions,
                cache_position=self._no_position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1]

    def _upload(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self._backend.device)


def _check(slots: Sequence[_Slot | None], logits: torch.Tensor) -> None:
    """Raises ArithmeticError if a caption's logits are not numbers: what they choose would be garbage."""
    wrong = torch.isnan(logits).any(-1).cpu().numpy()
    rows = [slot.row for slot, is_wrong in zip(slots, wrong, strict=True) if slot and is_wrong]
    if rows:
        raise ArithmeticError(
            f"the model's output for rows {rows} is not a number; a --dtype of wider range may hold what overflows"
        )


def cache_columns(length: int, options: GenerationOptions) -> int:
    """Columns of a slot: its prompt, and every token generated but the last, which is fed to nothing."""
    needed = length + max(1, options.max_new_tokens - 1)
    return -(-needed // _COLUMN_MULTIPLE) * _COLUMN_MULTIPLE
