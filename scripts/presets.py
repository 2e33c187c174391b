"""Configurations of models for measurements: the sizes of the public PLLaVA 7b and 13b, and a small one (63m).

Knows nothing about weights: measurements use random ones.
"""

from __future__ import annotations

from pipeline.captioning.captioners.pllava.configuration import PllavaConfig

TOKENS_BEFORE_IMAGE, TOKENS_AFTER_IMAGE = 60, 16
"""Text tokens of the prompt before and after the visual tokens, about as many as in the default prompt."""

_TOWER = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_SMALL_TOWER = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}

_PRESETS = {
    "63m": (
        _SMALL_TOWER,
        {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
    ),
    "7b": (
        _TOWER,
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    ),
    "13b": (
        _TOWER,
        {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    ),
}
PRESETS = tuple(_PRESETS)


def preset_config(name: str) -> PllavaConfig:
    """The configuration with this name, which is one of PRESETS."""
    vision, text = _PRESETS[name]
    return PllavaConfig.from_dict(
        {
            "image_token_index": 32000,
            "vision_config": {**vision, "image_size": 336, "patch_size": 14},
            "text_config": {**text, "vocab_size": 32064, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5},
        }
    )
