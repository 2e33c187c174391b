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
"""The cache is made smaller after more than this many decoding rounds in which it was too large."""
_MAX_OVERSIZE = 4
"""Columns beyond this multiple of the needed number are removed, because each decoding step reads all columns."""


class SlotTable:
    """The slots, their cache and its ring buffer.

    config: configuration of the text model.
    max_slots: maximum number of slots.
    planned_tokens: see `EngineSettings`.
    prefix: keys and values of the shared prefix; empty if there is none.
    prefix_length: its number of tokens.
    slots: the slots; None for a free one. Empty before the first request.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        backend: Backend,
        max_slots: int,
        planned_tokens: int,
        prefix: Layers,
        prefix_length: int,
    ) -> None:
        self.slots: list[Slot | None] = []
        self.ring = RingBuffer()
        self._config, self._backend, self._max_slots = config, backend, max_slots
        self._planned_tokens = planned_tokens
        self._prefix, self._prefix_length = prefix, prefix_length
        self._cache: SlotCache | None = None
        self._oversize_rounds = 0

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
        """Indices of free slots for `group`. Changes the cache so that it fits all current requests, up to the planned
        length of their answers.

        waiting: requests that wait for a slot.
        """
        active, requests = list(self.active), [*waiting, *group]
        prompt, ring = self._longest_prompt(requests), self._planned_ring(requests)
        shape, needed = self._cache.shape if self._cache else None, len(active) + len(group)
        if shape is None or (not active and shape.ring + shape.prompt > _MAX_OVERSIZE * (prompt + ring + 1)):
            self._allocate(prompt, ring)
        else:
            slots = shape.slots if needed <= shape.slots else min(self._max_slots, 2 * needed)
            is_too_small = slots > shape.slots or prompt > shape.prompt or ring > shape.ring
            if is_too_small or shape.prompt > _MAX_OVERSIZE * (prompt + COLUMN_MULTIPLE):
                self._resize(active, slots, prompt, max(ring, shape.ring))
        return [index for index, slot in enumerate(self.slots) if slot is None][: len(group)]

    def before_steps(self, steps: int, waiting: Sequence[Request]) -> None:
        """Change the cache before decoding steps: it grows with answers of more than the planned tokens, and becomes
        smaller after more than _SHRINK_AFTER rounds with half of the slots free, or with a ring buffer that is much
        larger than needed.

        steps: number of decoding steps that follow.
        waiting: requests that wait for a slot.
        """
        shape, active = self.cache.shape, list(self.active)
        decoding = [slot for slot in self.decoding if slot]
        used = steps + max(self.ring.step_number - slot.first_step for slot in decoding)
        if used > shape.ring:
            self._resize(active, shape.slots, self._longest_prompt(waiting), self._comfortable_ring(used, waiting))
            return
        is_half_free = not waiting and 2 * len(active) <= shape.slots
        ring = self._comfortable_ring(used, waiting)
        is_oversized = shape.ring > _MAX_OVERSIZE * (ring + COLUMN_MULTIPLE)
        self._oversize_rounds = self._oversize_rounds + 1 if is_half_free or is_oversized else 0
        if self._oversize_rounds > _SHRINK_AFTER:
            slots = len(active) if is_half_free else shape.slots
            self._resize(active, slots, self._longest_prompt(waiting), ring if is_oversized else shape.ring)

    def _longest_prompt(self, requests: Sequence[Request]) -> int:
        """Tokens of the longest prompt of `requests` and of the requests in the slots."""
        return max(one.longest for one in self._current(requests))

    def _longest_answer(self, requests: Sequence[Request]) -> int:
        """Maximum number of new tokens of `requests` and of the requests in the slots."""
        return max(one.options.max_new_tokens for one in self._current(requests))

    def _current(self, requests: Sequence[Request]) -> list[Slot | Request]:
        """`requests` and the requests in the slots."""
        return [*self.active.values(), *requests]

    def _planned_ring(self, requests: Sequence[Request]) -> int:
        """Columns of the ring buffer for `requests` and the requests in the slots, up to the planned answer."""
        # The last generated token is not fed to the model.
        return max(1, min(self._longest_answer(requests), self._planned_tokens) - 1)

    def _comfortable_ring(self, used: int, requests: Sequence[Request]) -> int:
        """Columns that need not be changed soon: for the planned answer, and twice the columns in use at most.

        used: columns that the longest answer needs for its next tokens.
        """
        return max(self._planned_ring(requests), min(self._longest_answer([]) - 1, 2 * used))

    def _allocate(self, prompt: int, ring: int) -> None:
        """Make a new, empty cache."""
        self._cache = None  # two caches may not fit into memory
        shape = CacheShape.for_lengths(self._max_slots, self._prefix_length, prompt, ring + 1)
        self._cache = SlotCache(self._config, shape, self._prefix, self._backend.device, self._backend.dtype)
        self.slots = [None] * self._max_slots
        self.ring.reset(shape.ring)

    def _resize(self, kept: Sequence[int], slots: int, prompt: int, ring: int) -> None:
        """Change the cache's sizes. A smaller ring buffer keeps the newest columns, which are all that slots see.

        Its oldest column becomes the first one, so that additional columns come after the newest.
        """
        shape = CacheShape.for_lengths(slots, self._prefix_length, prompt, ring + 1)
        self.cache.resize(shape, kept, self.ring.next_column)
        self.ring.resize(shape.ring)
        self.slots = [*(self.slots[index] for index in kept), *[None] * (slots - len(kept))]
        self._oversize_rounds = 0
