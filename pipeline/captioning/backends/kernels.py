"""The operators of the generation engine that a backend may replace, written on the torch API.

`mindspore_cpu` puts its own in their place; everywhere else these run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers.models.llama.modeling_llama import repeat_kv

HIDDEN = -1e30
"""Added to a score, it hides a key."""

fused_types: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
"""Types whose `masked_attention` is a fused kernel, where scores keep float32. As a product of two matrices they would
be rounded to 16 bit before the softmax. A backend without such a kernel empties it."""


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, is_causal: bool
) -> torch.Tensor:
    """Scaled dot-product attention without a mask; if causal, the last query sees all keys.

    query: (batch, heads, new tokens, head width); key, value: (batch, key heads, all tokens, head width),
    `heads` a multiple of `key heads`. Returns the shape of `query`.
    """
    earlier = key.shape[2] - query.shape[2] if is_causal else 0
    if earlier > query.shape[2]:
        # Few new tokens behind many: a mask of so few rows costs less than the padding below.
        mask = np.triu(np.full((query.shape[2], key.shape[2]), HIDDEN, np.float32), earlier + 1)
        shown = score_mask(torch.from_numpy(mask[None, None]).to(query.device), query.dtype)
        return masked_attention(query, key, value, scale, shown)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if earlier:
        # The fused kernels' causal route wants as many queries as keys: rows of zeros, thrown away after,
        # cost less than the mask that they save.
        batch, heads, _, width = query.shape
        query = torch.cat([query.new_zeros((batch, heads, earlier, width)), query], 2)
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale)
    return output[:, :, earlier:]


def masked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor
) -> torch.Tensor:
    """Attention of a few new tokens of each slot to the slot's columns of the cache.

    query: (slots, heads, new tokens, head width); key, value: (slots, key heads, columns, head width).
    mask: of `score_mask`, (slots or 1, 1, new tokens, columns). Returns the shape of `query`.

    Query heads that share a key head become further tokens of it: each key and value is read once, and none is copied.
    """
    slots, heads, tokens, width = query.shape
    key_heads, columns = key.shape[1:3]
    groups = heads // key_heads
    grouped = query.reshape(slots, key_heads, groups * tokens, width)
    if query.dtype in fused_types:
        mask = mask[:, :, None].expand(-1, -1, groups, -1, -1).reshape(mask.shape[0], 1, groups * tokens, columns)
        output = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scale)
    else:
        scores = torch.matmul(grouped * scale, key.transpose(2, 3)).float()
        split = scores.reshape(slots, key_heads, groups, tokens, columns) + mask[:, :, None]
        weights = torch.nn.functional.softmax(split, dim=-1).to(value.dtype)
        output = torch.matmul(weights.reshape(slots, key_heads, groups * tokens, columns), value)
    return output.reshape(slots, heads, tokens, width)


def score_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask that `masked_attention` takes for queries of `dtype`, from a float32 one of 0 and HIDDEN.

    No value that hides is infinite: where nothing is to be seen, the output must be a number. NPUs are given a bool
    mask, True for what is seen, which is the only kind that mindnlp's fused kernel takes
    (`mindtorch.nn.functional.scaled_dot_product_attention` inverts it for `flash_attention_score`).
    """
    if dtype not in fused_types:
        return mask
    if mask.device.type == "npu":
        return mask > HIDDEN / 2
    # Half of the least number, so that a score added to it is finite in float16 too.
    return mask.clamp(min=torch.finfo(dtype).min / 2).to(dtype)


def allocate(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> torch.Tensor:
    """A cache for `write`: zeros, for a masked column must still be finite (0 x nan is nan)."""
    return torch.zeros(shape, dtype=dtype, device=device)


def write(cache: torch.Tensor, slot: int, column: int, values: torch.Tensor) -> None:
    """Write `values` into `cache`, made by `allocate`, (slots, heads, columns, width), from `slot` and `column` on."""
    slots, _, columns, _ = values.shape
    cache[slot : slot + slots, :, column : column + columns] = values


def read(cache: torch.Tensor, slots: Sequence[int], start: int, stop: int) -> torch.Tensor:
    """The columns from `start` to `stop` of these slots of `cache`."""
    return torch.stack([cache[slot, :, start:stop] for slot in slots])
