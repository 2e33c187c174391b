"""The operators of the models that a backend can replace, written with the torch API.

`mindspore_cpu` replaces them with its own. On all other devices these run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers.models.llama.modeling_llama import repeat_kv

MASKED = -1e30
"""Added to a score, it hides the key."""

fused_types: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
"""Types for which `masked_attention` calls a fused kernel, which keeps scores in float32. Without a fused kernel the
scores of these types would be rounded to 16 bits before the softmax. Backends without such a kernel set it to ()."""


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, is_causal: bool
) -> torch.Tensor:
    """Scaled dot-product attention without a mask.

    query: (batch, heads, new tokens, head width).
    key, value: (batch, key heads, all tokens, head width); `heads` is a multiple of `key heads`.
    is_causal: the last query sees all keys, each earlier query one key fewer than the next.

    Returns the shape of `query`.
    """
    earlier = key.shape[2] - query.shape[2] if is_causal else 0
    if earlier > query.shape[2]:
        # Few new tokens after many earlier ones: a mask with few rows costs less than the padding below.
        mask = np.triu(np.full((query.shape[2], key.shape[2]), MASKED, np.float32), earlier + 1)
        causal = score_mask(torch.from_numpy(mask[None, None]).to(query.device), query.dtype)
        return masked_attention(query, key, value, scale, causal)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if earlier:
        # The causal mode of the fused kernels needs as many queries as keys. Padding with rows of zeros, discarded
        # below, costs less than a mask.
        batch, heads, _, width = query.shape
        query = torch.cat([query.new_zeros((batch, heads, earlier, width)), query], 2)
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale)
    return output[:, :, earlier:]


def masked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor
) -> torch.Tensor:
    """Attention of a few new tokens of each slot to the slot's columns of the cache.

    Query heads that share a key head are treated as further tokens of this key head: each key and value is read once,
    and none is copied.

    query: (slots, heads, new tokens, head width).
    key, value: (slots, key heads, columns, head width).
    mask: the result of `score_mask`, (slots or 1, 1, new tokens, columns).

    Returns the shape of `query`.
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


def slots_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    slots: Sequence[int],
    scale: float,
    mask: torch.Tensor,
) -> torch.Tensor:
    """`masked_attention` of new tokens of some slots to the first columns of these slots.

    It reads keys and values where they are in the cache. Copying those of all rows would take longer than the products
    on a CPU, and memory on any device.

    query: (rows, heads, new tokens, head width).
    key, value: made by `allocate`, (slots, key heads, all columns, head width).
    slots: the slot of each row.
    mask: the result of `score_mask`, (rows, 1, new tokens, first columns).

    Returns the shape of `query`.
    """
    # A fused kernel reads several slots at once if they are adjacent. Others keep the scores, which fit into a CPU's
    # caches for a single slot only.
    is_fused = query.dtype in fused_types
    runs = list(adjacent(slots)) if is_fused else [(row, row + 1) for row in range(len(slots))]
    outputs = []
    for begin, end in runs:
        first, last, columns = slots[begin], slots[end - 1], mask.shape[-1]
        keys, values = (tensor[first : last + 1, :, :columns] for tensor in (key, value))
        outputs.append(masked_attention(query[begin:end], keys, values, scale, mask[begin:end]))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def window_attention(
    states: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    scale: float,
    windows: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """Attention of a vision tower with rotary embedding, in which each patch sees the patches of its window.

    states: (batch, patches, 3, heads, head width): queries, keys and values.
    cosine, sine: of each patch, float32 (patches, head width). The rotated vector is `x * cosine + swapped * sine`,
        where `swapped` has the halves of x exchanged; it is computed in float32.
    windows: number of windows and patches in each, for each group of consecutive windows of the same size.

    Returns (batch, patches, heads * head width).
    """
    batch, _, _, heads, width = states.shape
    rotated = _rotated(states[:, :, :2], cosine, sine)
    outputs, start = [], 0
    for count, size in windows:
        stop = start + count * size
        queries, keys, values = (
            part[:, start:stop].reshape(batch * count, size, heads, width).transpose(1, 2)
            for part in (rotated[:, :, 0], rotated[:, :, 1], states[:, :, 2])
        )
        output = attention(queries, keys, values, scale, is_causal=False)
        outputs.append(output.transpose(1, 2).reshape(batch, stop - start, heads * width))
        start = stop
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


def _rotated(states: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    values, half = states.float(), states.shape[-1] // 2
    swapped = torch.cat([values[..., half:], values[..., :half]], -1)
    return (values * cosine[:, None, None] + swapped * sine[:, None, None]).to(states.dtype)


def score_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask that `masked_attention` needs for queries of `dtype`, from a float32 mask of 0 and MASKED.

    No value of the mask is infinite: a row with all keys hidden must give finite output. On NPUs the mask is bool,
    True for visible keys, the only type that mindnlp's fused kernel accepts
    (`mindtorch.nn.functional.scaled_dot_product_attention` inverts it for `flash_attention_score`).
    """
    if dtype not in fused_types:
        return mask
    if mask.device.type == "npu":
        return mask > MASKED / 2
    # Half of the lowest value, so that the sum with a score is finite, in float16 too.
    return mask.clamp(min=torch.finfo(dtype).min / 2).to(dtype)


def allocate(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> torch.Tensor:
    """A cache for `write`, filled with zeros: a masked column must be finite too (0 x NaN is NaN)."""
    return torch.zeros(shape, dtype=dtype, device=device)


def write(cache: torch.Tensor, slot: int, column: int, values: torch.Tensor) -> None:
    """Write `values` into `cache`, starting at `slot` and `column`.

    cache: made by `allocate`. Both have the axes (slots, heads, columns, width).
    """
    slots, _, columns, _ = values.shape
    cache[slot : slot + slots, :, column : column + columns] = values


def read(cache: torch.Tensor, slots: Sequence[int], start: int, stop: int) -> torch.Tensor:
    """A copy of the columns from `start` to `stop` (exclusive) of these slots of `cache`."""
    return torch.stack([cache[slot, :, start:stop] for slot in slots])


def adjacent(slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Begin and end index of each run of consecutive numbers in `slots`."""
    begin = 0
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] != slots[end - 1] + 1:
            yield begin, end
            begin = end
