"""Attention of the engine: a prefill has no mask.

Registered with transformers by name. A prefill is causal and its prompts are padded on the right, so no token
sees the padding. Without a mask the fused kernels take their causal route, on Ascend and CUDA alike, and no
mask of length times length is made. A decoding step brings a mask: it shows each slot its own columns of the
cache.
"""

from __future__ import annotations

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..backends import kernels

UNMASKED_ATTENTION = "unmasked"


def unmasked_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; shapes as in `backends.kernels`.

    Returns (batch, new tokens, heads, head width). Without a mask it is causal for a text model.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is not None:
        output = kernels.masked_attention(query, key, value, scale, attention_mask)
    else:
        # One new token sees all that came before it.
        is_causal = bool(module.is_causal) and query.shape[2] > 1
        output = kernels.attention(query, key, value, scale, is_causal)
    return output.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(UNMASKED_ATTENTION, unmasked_attention)
