"""Configurations of models for measurements: the sizes of the public PLLaVA 7b and 13b, and small ones (63m).

The small models of other families have the proportions of the published ones: heads of queries that share keys and
values, a wide MLP, and a tied head. Knows nothing about weights: measurements use random ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.captioning.captioners.hub.family import HubFamily
from pipeline.captioning.captioners.hub.llava_onevision import LlavaOnevision
from pipeline.captioning.captioners.hub.qwen2_vl import Qwen2Vl
from pipeline.captioning.captioners.images.base import ImageTransform
from pipeline.captioning.captioners.images.patches_of_two import PatchesOfTwo
from pipeline.captioning.captioners.images.square import Square
from pipeline.captioning.captioners.pllava.configuration import PllavaConfig
from scripts.model_shapes import ModelShape, onevision_shape, qwen2_5_vl_shape

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
"""Names of the PLLaVA models."""


def preset_config(name: str) -> PllavaConfig:
    """The configuration of a PLLaVA with this name, which is one of PRESETS."""
    vision, text = _PRESETS[name]
    return PllavaConfig.from_dict(
        {
            "image_token_index": 32000,
            "vision_config": {**vision, "image_size": 336, "patch_size": 14},
            "text_config": {**text, "vocab_size": 32064, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5},
        }
    )


@dataclass(frozen=True)
class FamilyPreset:
    """A model of a family of transformers.

    build: the class of the family. config: entries of config.json. transform: the frame transform.
    num_frames: sampled frames of a clip; with them, a clip has about 650 visual tokens.
    shape: what the model computes for a clip, from `config` and the shape of the clip's `HubFamily.units`.
    placeholder: the token that transformers replaces by visual tokens.
    around: tokens that enclose the visual tokens, before and after them.
    """

    build: Callable[..., HubFamily]
    config: dict[str, Any]
    transform: ImageTransform
    num_frames: int
    shape: Callable[[dict[str, Any], tuple[int, ...]], ModelShape]
    placeholder: int
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def family(self) -> HubFamily:
        return self.build(self.config, self.transform)


FAMILY_VOCABULARY = 32064
_SMALL_TEXT = {
    "hidden_size": 512, "intermediate_size": 2752, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": FAMILY_VOCABULARY, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "use_sliding_window": False, "tie_word_embeddings": True,
}  # fmt: skip
_VISION_START, _VISION_END, _IMAGE, _VIDEO = range(32000, 32004)
_TOKEN_PIXELS = 28 * 28  # of a visual token of Qwen2.5-VL

FAMILY_PRESETS = {
    # 61M parameters. A frame of 364 pixels has 26 x 26 patches, pooled to 13 x 13: 677 visual tokens for four frames.
    "llava_onevision-63m": FamilyPreset(
        LlavaOnevision,
        {
            "vision_config": {
                **_SMALL_TOWER, "model_type": "siglip_vision_model", "image_size": 364, "patch_size": 14,
                "vision_use_head": False,
            },
            "text_config": {**_SMALL_TEXT, "model_type": "qwen2"},
            "image_token_index": _IMAGE,
            "video_token_index": _VIDEO,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "tie_word_embeddings": True,
            "vision_aspect_ratio": "anyres_max_9",
            "image_grid_pinpoints": [[364, 364]],
        },
        Square(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=(364, 364)),
        num_frames=4,
        shape=onevision_shape,
        placeholder=_VIDEO,
    ),
    # 64M parameters. A pair of frames has about 160 visual tokens, depending on its aspect ratio. Time does not count
    # (tokens_per_second), because transformers 4.55 rounds the seconds of a pair of frames down to an integer. So both
    # sides have the same positions.
    "qwen2_5_vl-63m": FamilyPreset(
        Qwen2Vl,
        {
            "model_type": "qwen2_5_vl",
            **_SMALL_TEXT,
            "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
            "vision_config": {
                "depth": 8, "hidden_size": 256, "intermediate_size": 684, "num_heads": 4, "out_hidden_size": 512,
                "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
                "fullatt_block_indexes": [7], "tokens_per_second": 0,
            },
            "vision_start_token_id": _VISION_START,
            "vision_end_token_id": _VISION_END,
            "image_token_id": _IMAGE,
            "video_token_id": _VIDEO,
        },
        PatchesOfTwo(
            mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711),
            min_pixels=156 * _TOKEN_PIXELS, max_pixels=172 * _TOKEN_PIXELS,
        ),
        num_frames=8,
        shape=qwen2_5_vl_shape,
        placeholder=_VIDEO,
        around=((_VISION_START,), (_VISION_END,)),
    ),
}  # fmt: skip
"""The models of other families, by name."""
