"""The KV cache of the requests in flight: one row for each slot, one column for each token.

The columns of a row are `[prefix | ring buffer | prompt columns]`. The prefix is the same in every slot. The prompt
columns hold the slot's prompt, from their left end. The ring buffer holds generated tokens: each decoding step writes
the same one of its columns for all slots. This write is a slice, which every framework writes correctly and fast; a
different column for each slot would need a scatter. The order of the columns does not matter, because keys contain
their positions before they are cached. The mask of a decoding step decides which columns a slot sees.

Knows nothing about requests and masks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from ..backends import kernels

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of every layer, each (batch, key heads, tokens, head width)."""

COLUMN_MULTIPLE = 16
"""The number of columns is a multiple of this, which suits matrix units."""


class PrefixRecorder:
    """A cache for the forward pass over the shared prefix: keeps the prefix's keys and values."""

    def __init__(self) -> None:
        self.layers: Layers = []

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, _: object = None) -> tuple[torch.Tensor, ...]:
        assert layer == len(self.layers)
        self.layers.append((key, value))
        return key, value


@dataclass(frozen=True)
class CacheShape:
    """Sizes of a cache: number of slots, and number of columns of the prefix, the ring buffer and the prompts.

    The total number of columns is rounded up; the additional columns are prompt columns.
    """

    slots: int
    prefix: int
    ring: int
    prompt: int

    @classmethod
    def for_lengths(cls, slots: int, prefix: int, prompt: int, new_tokens: int) -> CacheShape:
        """The shape for prompts of up to `prompt` tokens after the prefix and answers of up to `new_tokens` tokens."""
        ring = max(1, new_tokens - 1)  # the last generated token is not fed to the model
        columns = -(-(prefix + ring + prompt) // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
        return cls(slots, prefix, ring, columns - prefix - ring)

    @property
    def columns(self) -> int:
        return self.prefix + self.ring + self.prompt


class SlotCache:
    """The cache of all slots.

    prefix: keys and values of the shared prefix (batch 1); empty if there is none.
    """

    def __init__(
        self, config: PretrainedConfig, shape: CacheShape, prefix: Layers, device: str, dtype: torch.dtype
    ) -> None:
        self.shape, self._prefix = shape, prefix
        self._heads, self._width = key_heads(config), head_width(config)
        self._device, self._dtype = device, dtype
        self._layers: Layers = [(self._allocate(), self._allocate()) for _ in range(config.num_hidden_layers)]
        self._write_prefix()

    def _allocate(self) -> torch.Tensor:
        return kernels.allocate(
            (self.shape.slots, self._heads, self.shape.columns, self._width), self._device, self._dtype
        )

    def _write_prefix(self) -> None:
        """Write the prefix into every slot."""
        for cached, shared in zip(self._layers, self._prefix, strict=False):  # `self._prefix` may be empty
            for tensor, values in zip(cached, shared, strict=True):
                kernels.write(tensor, 0, 0, values.expand(self.shape.slots, -1, -1, -1))

    def resize(self, shape: CacheShape, kept: Sequence[int], oldest: int) -> None:
        """Change the sizes. The prompts of the kept slots must fit. A smaller ring buffer loses its oldest columns.

        kept: slots to keep; they become the first slots, in this order.
        oldest: index of the ring buffer's oldest column. The oldest column that is kept becomes the first; the columns
            before it move after the last one.
        """
        before, self.shape = self.shape, shape
        for layer, pair in enumerate(self._layers):
            # One tensor at a time: only one of them is in memory twice.
            self._layers[layer] = (
                self._resized(pair[0], before, kept, oldest),
                self._resized(pair[1], before, kept, oldest),
            )
        self._write_prefix()

    def _resized(self, old: torch.Tensor, before: CacheShape, kept: Sequence[int], oldest: int) -> torch.Tensor:
        new = self._allocate()
        if not kept:
            return new
        ring, prompt = before.prefix, before.prefix + before.ring  # first columns
        new_prompt = self.shape.prefix + self.shape.ring
        first = oldest + max(0, before.ring - self.shape.ring)  # of the columns that are kept
        at_end = max(0, before.ring - first)
        for start, stop, target in (
            (prompt - at_end, prompt, ring),
            (ring + max(0, first - before.ring), ring + oldest, ring + at_end),
            (prompt, prompt + min(before.prompt, self.shape.prompt), new_prompt),
        ):
            if stop > start:
                kernels.write(new, 0, target, kernels.read(old, kept, start, stop))
        return new

    def clear(self, slot: int, kept: int = 0) -> None:
        """Overwrite a slot with zeros, to remove NaN: a mask hides a column with weight 0, but 0 times NaN is NaN.

        kept: number of prompt columns to keep.
        """
        ring, prompt = self.shape.prefix, self.shape.prefix + self.shape.ring  # first columns
        for start, stop in ((ring, prompt), (prompt + kept, self.shape.columns)):
            size = (1, self._heads, stop - start, self._width)
            zeros = torch.zeros(size, dtype=self._dtype, device=self._device)
            for pair in self._layers:
                for tensor in pair:
                    kernels.write(tensor, slot, start, zeros)

    def prefill(self, slots: Sequence[int], has_prefix: bool) -> _PrefillView:
        """The cache for a forward pass over prompts without their prefix; prompt i is written to `slots[i]`."""
        start = self.shape.prefix + self.shape.ring
        return _PrefillView(self._layers, self._prefix if has_prefix else [], slots, start)

    def extend(self, slots: Sequence[int], begins: Sequence[int], ends: Sequence[int]) -> _ExtensionView:
        """The cache for a forward pass over further prompt tokens, which needs a mask of the columns up to the last one
        that it writes.

        The tokens of row i are written to the prompt columns of `slots[i]` from `begins[i]` to `ends[i]` (exclusive).
        Further tokens of the row are padding; they may be written after them.
        """
        start = self.shape.prefix + self.shape.ring
        return _ExtensionView(self._layers, slots, [start + begin for begin in begins], [start + end for end in ends])

    def decode(self, column: int) -> _DecodeView:
        """The cache for a forward pass over one token of each slot, written to `column` of the ring buffer."""
        return _DecodeView(self._layers, self.shape.prefix + column)


class _PrefillView:
    def __init__(self, layers: Layers, prefix: Layers, slots: Sequence[int], start: int) -> None:
        self._layers, self._prefix, self._start = layers, prefix, start
        self._slots, self._runs = slots, list(kernels.adjacent(slots))

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, _: object = None) -> tuple[torch.Tensor, ...]:
        for tensor, values in zip(self._layers[layer], (key, value), strict=True):
            for begin, end in self._runs:
                kernels.write(tensor, self._slots[begin], self._start, values[begin:end])
        if not self._prefix:
            return key, value
        return tuple(
            torch.cat([shared.expand(len(self._slots), -1, -1, -1), values], 2)
            for shared, values in zip(self._prefix[layer], (key, value), strict=True)
        )


@dataclass(frozen=True)
class SlotColumns:
    """Keys or values that stay in the cache, in place of a tensor; `attention` reads them there.

    cache: (slots, key heads, columns, head width), made by `kernels.allocate`.
    slots: the slot of each row of the batch.
    """

    cache: torch.Tensor
    slots: Sequence[int]


class _ExtensionView:
    def __init__(self, layers: Layers, slots: Sequence[int], begins: Sequence[int], ends: Sequence[int]) -> None:
        self._layers, self._slots = layers, slots
        self._writes = []  # first row, row after the last one, column, number of columns
        for first, last in kernels.adjacent(slots):
            for column, group in itertools.groupby(range(first, last), begins.__getitem__):
                rows = list(group)
                # Padding of the shorter rows is written too. These columns exist, because a longer row has them.
                self._writes.append((rows[0], rows[-1] + 1, column, max(ends[row] for row in rows) - column))

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, _: object = None) -> tuple[SlotColumns, ...]:
        for tensor, values in zip(self._layers[layer], (key, value), strict=True):
            for first, last, column, count in self._writes:
                kernels.write(tensor, self._slots[first], column, values[first:last, :, :count])
        return tuple(SlotColumns(tensor, self._slots) for tensor in self._layers[layer])


class _DecodeView:
    def __init__(self, layers: Layers, column: int) -> None:
        self._layers, self._column = layers, column

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, _: object = None) -> tuple[torch.Tensor, ...]:
        for tensor, values in zip(self._layers[layer], (key, value), strict=True):
            kernels.write(tensor, 0, self._column, values)
        return self._layers[layer]


def head_width(config: PretrainedConfig) -> int:
    """Width of one attention head. T5's is independent of the hidden width."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def key_heads(config: PretrainedConfig) -> int:
    """Number of heads of keys and values: that of queries, unless query heads share them."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def bytes_per_slot(config: PretrainedConfig, columns: int, itemsize: int) -> int:
    """Bytes of one slot's keys and values, in all layers of the decoder."""
    layers = config.num_decoder_layers if config.is_encoder_decoder else config.num_hidden_layers
    return 2 * layers * key_heads(config) * columns * head_width(config) * itemsize
