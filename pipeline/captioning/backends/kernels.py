"""The operators of the generation engine that a backend may replace, written on the torch API.

`mindspore_cpu` puts its own in their place; everywhere else these run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.models.llama.modeling_llama import repeat_kv


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, is_causal: bool
) -> torch.Tensor:
    """Scaled dot-product attention without a mask; if causal, the last query sees all keys.

    query: (batch, heads, new tokens, head width); key, value: (batch, key heads, all tokens, head width),
    `heads` a multiple of `key heads`. Returns the shape of `query`.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    earlier = key.shape[2] - query.shape[2] if is_causal else 0
    if earlier:
        # The fused kernels' causal route wants as many queries as keys: rows of zeros, thrown away after,
        # cost less than the mask that they save.
        batch, heads, _, width = query.shape
        query = torch.cat([query.new_zeros((batch, heads, earlier, width)), query], 2)
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale)
    return output[:, :, earlier:]


def decode_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor
) -> torch.Tensor:
    """Attention of one new token a slot to the slot's columns of the cache.

    query: (slots, heads, 1, head width); key, value: (slots, key heads, columns, head width).
    mask: float32 (slots, 1, 1, columns), added to the scores. Returns the shape of `query`.

    Two batched matrix products: each key and value is read once, also where query heads share them.
    """
    slots, heads, _, width = query.shape
    grouped = query.reshape(slots, key.shape[1], heads // key.shape[1], width)
    scores = torch.matmul(grouped * scale, key.transpose(2, 3)).float() + mask
    weights = torch.nn.functional.softmax(scores, dim=-1).to(value.dtype)
    return torch.matmul(weights, value).reshape(slots, heads, 1, width)


def allocate(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> torch.Tensor:
    """A cache for `write`: zeros, for a masked column must still be finite (0 x nan is nan)."""
    return torch.zeros(shape, dtype=dtype, device=device)


def write(cache: torch.Tensor, slot: int, column: int, values: torch.Tensor) -> None:
    """Write `values` into `cache`, made by `allocate`, (slots, heads, columns, width), from `slot` and `column` on."""
    slots, _, columns, _ = values.shape
    cache[slot : slot + slots, :, column : column + columns] = values


def select(cache: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
    """A cache of these slots of `cache`."""
    return torch.stack([cache[slot] for slot in slots])
