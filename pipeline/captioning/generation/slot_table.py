"""The slots of an engine with their cache, whose sizes follow the requests. Knows nothing about models."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig

from ..backends import Backend
from .kv_cache import COLUMN_MULTIPLE, CacheShape, Layers, SlotCache
from .requests import Request
from .ring import RingBuffer
from .slots import Slot

_SHRINK_AFTER = 16
"""The cache is made smaller after more than this many decoding rounds with at least half of the slots free."""
_MAX_OVERSIZE = 4
"""Prompt columns beyond this multiple of the needed number are removed, because each decoding step reads all columns.
While no slot is active, this applies to the ring buffer too."""


class SlotTable:
    """The slots, their cache and its ring buffer.

    config: configuration of the text model.
    max_slots: maximum number of slots.
    prefix: keys and values of the shared prefix; empty if there is none.
    prefix_length: its number of tokens.
    slots: the slots; None for a free one. Empty before the first request.
    """

    def __init__(
        self, config: PretrainedConfig, backend: Backend, max_slots: int, prefix: Layers, prefix_length: int
    ) -> None:
        self.slots: list[Slot | None] = []
        self.ring = RingBuffer()
        self._config, self._backend, self._max_slots = config, backend, max_slots
        self._prefix, self._prefix_length = prefix, prefix_length
        self._cache: SlotCache | None = None
        self._half_free_rounds = 0

    @property
    def cache(self) -> SlotCache:
        """The cache; there is none before the first request."""
        assert self._cache is not None
        return self._cache

    @property
    def active(self) -> dict[int, Slot]:
        """The slots that are not free, by index."""
        return {index: slot for index, slot in enumerate(self.slots) if slot}

    @property
    def decoding(self) -> list[Slot | None]:
        """All slots, with None in place of those that wait for the prefill of a follow-up."""
        return [slot if slot and slot.is_decoding else None for slot in self.slots]

    def reserve(self, group: Sequence[Request], waiting: Sequence[Request]) -> list[int]:
        """Indices of free slots for `group`. Changes the cache so that it fits all current requests.

        waiting: requests that wait for a slot.
        """
        active = list(self.active)
        prompt, new_tokens = self._longest([*waiting, *group])
        shape, needed = self._cache.shape if self._cache else None, len(active) + len(group)
        if shape is None or (not active and shape.ring + shape.prompt > _MAX_OVERSIZE * (prompt + new_tokens)):
            self._allocate(prompt, new_tokens)
        else:
            slots = shape.slots if needed <= shape.slots else min(self._max_slots, 2 * needed)
            is_too_small = slots > shape.slots or prompt > shape.prompt or new_tokens - 1 > shape.ring
            if is_too_small or shape.prompt > _MAX_OVERSIZE * (prompt + COLUMN_MULTIPLE):
                self._resize(active, slots, prompt, new_tokens)
        return [index for index, slot in enumerate(self.slots) if slot is None][: len(group)]

    def shrink_if_half_free(self, waiting: int) -> None:
        """Release the memory of free slots after more than _SHRINK_AFTER rounds with at least half of the slots free.

        waiting: number of requests that wait for a slot.
        """
        active = self.active
        is_half_free = not waiting and 2 * len(active) <= self.cache.shape.slots
        self._half_free_rounds = self._half_free_rounds + 1 if is_half_free else 0
        if self._half_free_rounds > _SHRINK_AFTER:
            self._resize(list(active), len(active), *self._longest([]))

    def _longest(self, requests: Sequence[Request]) -> tuple[int, int]:
        """Tokens of the longest prompt and of the longest answer, of `requests` and of the requests in the slots."""
        current: list[Slot | Request] = [*self.active.values(), *requests]
        return max(one.longest for one in current), max(one.options.max_new_tokens for one in current)

    def _allocate(self, prompt: int, new_tokens: int) -> None:
        """Make a new, empty cache."""
        self._cache = None  # two caches may not fit into memory
        shape = CacheShape.for_lengths(self._max_slots, self._prefix_length, prompt, new_tokens)
        self._cache = SlotCache(self._config, shape, self._prefix, self._backend.device, self._backend.dtype)
        self.slots = [None] * self._max_slots
        self.ring.reset(shape.ring)

    def _resize(self, kept: Sequence[int], slots: int, prompt: int, new_tokens: int) -> None:
        """Change the cache's sizes.

        The ring buffer never becomes smaller, because needed columns can be anywhere in it. Its oldest column becomes
        the first one, so that additional columns come after the newest.
        """
        ring = self.cache.shape.ring
        shape = CacheShape.for_lengths(slots, self._prefix_length, prompt, max(new_tokens, ring + 1))
        self.cache.resize(shape, kept, self.ring.next_column)
        self.ring.grow(shape.ring)
        self.slots = [*(self.slots[index] for index in kept), *[None] * (slots - len(kept))]
        self._half_free_rounds = 0
