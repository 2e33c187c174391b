"""Keys and values of the clips in flight, allocated once: a row a slot, a column a token.

The columns of a slot are its prompt, as long for all clips, and a ring for the tokens generated. Each
decoding step writes one and the same column of the ring for all slots: a slice, which every framework
writes rightly and fast, where each slot at a column of its own would need a scatter. The order of columns
does not matter, for positions are in the keys before they are cached; what a slot may see is the mask's
business.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PretrainedConfig

from ..backends import kernels

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of every layer, each (batch, key heads, tokens, head width)."""


class PrefixRecorder:
    """A cache for the forward pass over the shared prefix: keeps its keys and values."""

    def __init__(self) -> None:
        self.layers: Layers = []

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, _: object = None) -> tuple[torch.Tensor, ...]:
        assert layer == len(self.layers)
        self.layers.append((key, value))
        return key, value


class SlotCache:
    """The cache of all slots.

    prefix: keys and values of tokens that every prompt begins with (batch 1); empty for none.
    """

    def __init__(
        self, config: PretrainedConfig, slots: int, columns: int, prefix: Layers, device: str, dtype: torch.dtype
    ) -> None:
        shape = (slots, config.num_key_value_heads, columns, head_width(config))
        self._layers: Layers = [
            (kernels.allocate(shape, device, dtype), kernels.allocate(shape, device, dtype))
            for _ in range(config.num_hidden_layers)
        ]
        self._prefix = prefix
        for cached, shared in zip(self._layers, prefix, strict=False):
            for tensor, values in zip(cached, shared, strict=True):
                kernels.write(tensor, 0, 0, values.expand(slots, -1, -1, -1))

    def prefill(self, slots: Sequence[int]) -> _PrefillView:
        """For a forward pass over whole prompts, but for the prefix; prompt i goes into `slots[i]`."""
        return _PrefillView(self._layers, self._prefix, slots)

    def decode(self, column: int) -> _DecodeView:
        """For a forward pass over one token a slot, written to `column`."""
        return _DecodeView(self._layers, column)

    def keep(self, slots: Sequence[int]) -> None:
        """Go on with these slots alone, in this order."""
        for layer, (key, value) in enumerate(self._layers):
            self._layers[layer] = kernels.select(key, slots), kernels.select(value, slots)


class _PrefillView:
    def __init__(self, layers: Layers, prefix: Layers, slots: Sequence[int]) -> None:
        self._layers, self._prefix, self._slots = layers, prefix, slots

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, _: object = None) -> tuple[torch.Tensor, ...]:
        start = self._prefix[layer][0].shape[2] if self._prefix else 0
        end = start + key.shape[2]
        heads, columns, width = self._layers[layer][0].shape[1:]
        # What an earlier clip left behind the prompt is masked, but were it not finite, 0 x nan would be nan.
        zeros = torch.zeros((1, heads, columns - end, width), dtype=key.dtype, device=key.device)
        for tensor, values in zip(self._layers[layer], (key, value), strict=True):
            for i, slot in enumerate(self._slots):
                kernels.write(tensor, slot, start, values[i : i + 1])
                kernels.write(tensor, slot, end, zeros)
        if not self._prefix:
            return key, value
        return tuple(
            torch.cat([shared.expand(len(self._slots), -1, -1, -1), values], 2)
            for shared, values in zip(self._prefix[layer], (key, value), strict=True)
        )


class _DecodeView:
    def __init__(self, layers: Layers, column: int) -> None:
        self._layers, self._column = layers, column

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, _: object = None) -> tuple[torch.Tensor, ...]:
        for tensor, values in zip(self._layers[layer], (key, value), strict=True):
            kernels.write(tensor, 0, self._column, values)
        return self._layers[layer]


def head_width(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def bytes_per_slot(config: PretrainedConfig, columns: int, itemsize: int) -> int:
    """Memory of one slot's keys and values."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * columns * head_width(config) * itemsize
