"""The attention of each part of a model: the function of the engine, or transformers' own.

The function of the engine is registered with transformers under the name `unmasked`.

A prefill needs no mask: it is causal, and its prompts are padded on the right, so no token sees the padding. Without
a mask the fused kernels use their causal mode, on Ascend and on CUDA, and no mask of (length, length) is allocated.
A decoding step passes a mask, which shows each slot only its own columns of the cache. So does the prefill of a
follow-up, whose keys and values are in the cache.
"""

from __future__ import annotations

import torch
from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..backends import kernels
from .kv_cache import SlotColumns

UNMASKED_ATTENTION = "unmasked"
OWN_MASKS_ATTENTION = "eager"
"""transformers' attention for text models that make their own masks: the only one that T5 has, and OPT has it too."""
_OWN_MASKS = ("opt", "t5")


def makes_own_masks(text_config: PretrainedConfig) -> bool:
    """Whether a text model makes its own masks, so that only `whole_batch.BatchEngine` can run it."""
    return text_config.model_type in _OWN_MASKS


def set_attention(config: PretrainedConfig) -> None:
    """Set the attention of every part of a model, before it is built: the engine's, or that of its text model.

    config: configuration of a text model, or of a model with a text model.
    """
    config._attn_implementation = UNMASKED_ATTENTION
    text_config = config.get_text_config()
    if makes_own_masks(text_config):
        text_config._attn_implementation = OWN_MASKS_ATTENTION


def unmasked_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | SlotColumns,
    value: torch.Tensor | SlotColumns,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; shapes as in `backends.kernels`. Keys and values may be those of a slot's cache.

    Without a mask it is causal if the module is (text models are, vision towers are not).
    Returns (batch, new tokens, heads, head width), and None in place of the attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(key, SlotColumns):
        assert isinstance(value, SlotColumns) and attention_mask is not None
        output = kernels.slots_attention(query, key.cache, value.cache, key.slots, scale, attention_mask)
    elif attention_mask is not None:
        output = kernels.masked_attention(query, key, value, scale, attention_mask)
    else:
        # A single new token sees all earlier tokens, so it needs no causal mode.
        is_causal = bool(module.is_causal) and query.shape[2] > 1
        output = kernels.attention(query, key, value, scale, is_causal)
    return output.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(UNMASKED_ATTENTION, unmasked_attention)
