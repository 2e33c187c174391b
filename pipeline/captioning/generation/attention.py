"""Attention of rectangular batches: every row has the same length, so that nothing is ever padded or masked.

Registered with transformers by name. Without a mask the fused kernels take their causal route, on
Ascend and CUDA alike, and no mask of length times length is made for every step.
"""

from __future__ import annotations

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import repeat_kv

RECTANGULAR_ATTENTION = "rectangular"


def rectangular_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention, causal for a text model's prefill.

    query: (batch, heads, new tokens, head width); key, value: (batch, key heads, all tokens, head width).
    Returns (batch, new tokens, heads, head width). A prefill starts from an empty cache.
    """
    assert attention_mask is None, "batches are rectangular: nothing is masked"
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    # One new token sees all that came before it.
    is_causal = bool(module.is_causal) and query.shape[2] > 1
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(RECTANGULAR_ATTENTION, rectangular_attention)
