"""Tiny text models for the engine's tests, with the same weights on each framework.

The weights are random, with a deviation at which answers differ and a stop id can occur at any position. Importing this
module imports no framework.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

MODELS = ("llama", "qwen2", "qwen2_5_vl")
BATCH_MODELS = ("opt", "t5")  # only transformers' `generate` runs them
WIDTH, VOCABULARY, MAX_POSITIONS = 32, 64, 144
IMAGE_TOKEN, VIDEO_TOKEN, VISION_START_TOKEN = 60, 61, 62
WORDS = 56  # token ids below this number are the words of prompts
PATCH, FRAMES = 4, 2  # side of a patch, in pixels; frames in a patch

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_SPECIAL = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
_OPT = _SPECIAL | {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "word_embed_proj_dim": WIDTH,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_POSITIONS,
}
_T5 = _SPECIAL | {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}
_VISION = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": FRAMES,
    "window_size": 4 * PATCH,
    "fullatt_block_indexes": [1],
    "out_hidden_size": WIDTH,
    "tokens_per_second": 2,
}


def build(name: str, attention: str, nan_token: int | None = None) -> Any:
    """The model `name` of MODELS or BATCH_MODELS with this `attn_implementation`.

    nan_token: a token id whose embedding is NaN; not for models with a tied head.
    """
    import torch
    import transformers

    if name == "llama":
        config = transformers.LlamaConfig(**_TEXT, attn_implementation=attention)
        model = transformers.LlamaForCausalLM(config)
    elif name == "qwen2":
        config = transformers.Qwen2Config(**_TEXT, tie_word_embeddings=True, attn_implementation=attention)
        model = transformers.Qwen2ForCausalLM(config)
    elif name == "opt":
        config = transformers.OPTConfig(**_OPT, attn_implementation=attention)
        model = transformers.OPTForCausalLM(config)
    elif name == "t5":
        config = transformers.T5Config(**_T5, attn_implementation=attention)
        model = transformers.T5ForConditionalGeneration(config)
    else:
        config = transformers.Qwen2_5_VLConfig(
            text_config={**_TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
            vision_config=_VISION,
            image_token_id=IMAGE_TOKEN,
            video_token_id=VIDEO_TOKEN,
            vision_start_token_id=VISION_START_TOKEN,
            attn_implementation=attention,
        )
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    weights = {key: _weights(key, tuple(value.shape)) for key, value in model.state_dict().items()}
    embedding = next(key for key in weights if key.endswith("embed_tokens.weight"))
    for key in weights:
        if key.endswith(("embed_tokens.weight", "shared.weight")) or (
            key == "lm_head.weight" and config.tie_word_embeddings
        ):
            weights[key] = weights[embedding]
    if nan_token is not None:
        weights[embedding][nan_token] = np.nan
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    return model.eval()


def _weights(key: str, shape: tuple[int, ...]) -> np.ndarray:
    if "norm" in key:
        return np.ones(shape, np.float32)
    # The seed is the name, so that the weights do not depend on the order of the keys.
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    return rng.normal(0, 0.3, shape).astype(np.float32)
