"""The configurations of the tiny checkpoints in `tiny_families`: entries of config.json and of the image processor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SIDE, PATCH = 56, 14  # of a frame and of a patch, in pixels
WIDTH, VOCABULARY = 32, 528
NAMES = ("<image>", "<pad>", "<video>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
NAMES += ("<|image_pad|>", "<|video_pad|>", "<image_placeholder>", "<IMG_CONTEXT>", "<img>", "</img>")
NAMES += ("<begin_of_image>", "<end_of_image>")
IDS = {content: 500 + index for index, content in enumerate(NAMES)}
"""Special tokens beside those of mini-a, whose first two these are too."""


@dataclass(frozen=True)
class TinyConfig:
    """model_class, image_processor: names of classes of transformers.

    config: entries of config.json.
    processor: arguments of the image processor.
    generation: entries of generation_config.json.
    is_chatml: whether the tokenizer is like Qwen's: no token at the start, answers end with `<|im_end|>`.
    """

    model_class: str
    config: dict[str, Any]
    image_processor: str
    processor: dict[str, Any]
    generation: dict[str, Any] = field(default_factory=lambda: {"bos_token_id": 1, "eos_token_id": 2})
    is_chatml: bool = False


_QWEN_GENERATION = {"eos_token_id": [IDS["<|im_end|>"], 2], "pad_token_id": IDS["<pad>"], "do_sample": True}
_QWEN_GENERATION |= {"repetition_penalty": 1.05, "temperature": 0.1, "top_p": 0.001}

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_LLAMA = {**_TEXT, "model_type": "llama", "pad_token_id": IDS["<pad>"]}
_MISTRAL = {**_TEXT, "model_type": "mistral", "sliding_window": None, "rope_theta": 1e6}
_QWEN2 = {**_TEXT, "model_type": "qwen2", "rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 128}
_TOWER = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 3}
_CLIP = {**_TOWER, "model_type": "clip_vision_model", "image_size": SIDE, "patch_size": PATCH, "projection_dim": 16}
_SIGLIP = {**_TOWER, "model_type": "siglip_vision_model", "image_size": SIDE, "patch_size": PATCH}
_SIGLIP |= {"vision_use_head": False}
_GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
_LLAVA = {"vision_config": _CLIP, "text_config": _LLAMA, "projector_hidden_act": "gelu", "tie_word_embeddings": False}
_LLAVA |= {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
_LLAVA |= {"image_token_index": IDS["<image>"], "pad_token_id": IDS["<pad>"], "image_seq_length": (SIDE // PATCH) ** 2}
_NEXT = {**_LLAVA, "image_grid_pinpoints": _GRID}

_CLIP_SIZES = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
_SQUARE = {"size": {"height": SIDE, "width": SIDE}}
_NEXT_SIZES = {**_CLIP_SIZES, "image_grid_pinpoints": _GRID}

_QWEN_TEXT = {**_TEXT, "rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 128, "max_window_layers": 2}
_QWEN_TEXT |= {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
_QWEN_TEXT |= {"bos_token_id": 1, "eos_token_id": IDS["<|im_end|>"]}
_QWEN_IDS = {
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
    "image_token_id": IDS["<|image_pad|>"],
    "video_token_id": IDS["<|video_pad|>"],
}
_QWEN_SIZES = {"patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2}
_QWEN_SIZES |= {"min_pixels": 4 * 28 * 28, "max_pixels": 64 * 28 * 28}
_QWEN2_TOWER = {"depth": 2, "embed_dim": 24, "num_heads": 2, "mlp_ratio": 2, "in_chans": 3, "hidden_size": WIDTH}
_QWEN2_TOWER |= {"patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
_QWEN2_5_TOWER = {"depth": 2, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "out_hidden_size": WIDTH}
_QWEN2_5_TOWER |= {"patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 4 * PATCH}
_QWEN2_5_TOWER |= {"fullatt_block_indexes": [1], "tokens_per_second": 2}

_BLIP = {
    "vision_config": {**_TOWER, "image_size": SIDE, "patch_size": PATCH},
    "qformer_config": {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "encoder_hidden_size": 24,
        "cross_attention_frequency": 2,
    },
    "num_query_tokens": 4,
    "image_token_index": IDS["<image>"],
}
_OPT = {"model_type": "opt", "vocab_size": VOCABULARY, "hidden_size": WIDTH, "word_embed_proj_dim": WIDTH}
_OPT |= {"ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
_OPT |= {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
_T5 = {"model_type": "t5", "vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 6, "d_ff": 48, "num_heads": 4}
_T5 |= {"num_layers": 2, "num_decoder_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_T5 |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}

_JANUS = {
    "text_config": _LLAMA,
    "vision_config": {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2.0,
        "image_size": SIDE,
        "patch_size": PATCH,
        "projection_dim": WIDTH,
        "num_image_tokens": (SIDE // PATCH) ** 2,
    },
    "vq_config": {
        "embed_dim": 8,
        "num_embeddings": 16,
        "latent_channels": 32,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "projection_dim": WIDTH,
        "image_token_embed_dim": WIDTH,
    },
    "image_token_id": IDS["<image_placeholder>"],
}
_INTERNVL = {
    "text_config": _QWEN2,
    "vision_config": {
        "model_type": "internvl_vision",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "attention_bias": True,
        "image_size": [SIDE, SIDE],
        "patch_size": [PATCH, PATCH],
    },
    "image_token_id": IDS["<IMG_CONTEXT>"],
    "image_seq_length": (SIDE // PATCH // 2) ** 2,
    "downsample_ratio": 0.5,
}

CONFIGS = {
    "llava": TinyConfig("LlavaForConditionalGeneration", _LLAVA, "CLIPImageProcessor", _CLIP_SIZES),
    "llava_next": TinyConfig("LlavaNextForConditionalGeneration", _NEXT, "LlavaNextImageProcessor", _NEXT_SIZES),
    "llava_next_mistral": TinyConfig(
        "LlavaNextForConditionalGeneration",
        {**_NEXT, "text_config": _MISTRAL},
        "LlavaNextImageProcessor",
        _NEXT_SIZES,
    ),
    "llava_next_video": TinyConfig(
        "LlavaNextVideoForConditionalGeneration",
        {**_NEXT, "video_token_index": IDS["<video>"], "spatial_pool_mode": "average", "spatial_pool_stride": 2},
        "LlavaNextVideoImageProcessor",
        _NEXT_SIZES,
    ),
    "llava_onevision": TinyConfig(
        "LlavaOnevisionForConditionalGeneration",
        {
            "vision_config": _SIGLIP,
            "text_config": {**_QWEN2, "tie_word_embeddings": True},
            "image_token_index": IDS["<image>"],
            "video_token_index": IDS["<video>"],
            "image_grid_pinpoints": _GRID,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "tie_word_embeddings": False,
        },
        "LlavaOnevisionImageProcessor",
        {**_SQUARE, "image_grid_pinpoints": _GRID},
        {"eos_token_id": IDS["<|im_end|>"], "pad_token_id": IDS["<pad>"]},
        is_chatml=True,
    ),
    "qwen2_vl": TinyConfig(
        "Qwen2VLForConditionalGeneration",
        {**_QWEN_TEXT, **_QWEN_IDS, "vision_config": _QWEN2_TOWER, "tie_word_embeddings": True},
        "Qwen2VLImageProcessor",
        _QWEN_SIZES,
        _QWEN_GENERATION,
        is_chatml=True,
    ),
    "qwen2_5_vl": TinyConfig(
        "Qwen2_5_VLForConditionalGeneration",
        {**_QWEN_TEXT, **_QWEN_IDS, "vision_config": _QWEN2_5_TOWER, "tie_word_embeddings": False},
        "Qwen2VLImageProcessor",
        _QWEN_SIZES,
        _QWEN_GENERATION,
        is_chatml=True,
    ),
    "blip2_opt": TinyConfig(
        "Blip2ForConditionalGeneration",
        {**_BLIP, "text_config": _OPT},
        "BlipImageProcessor",
        _SQUARE,
        {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
    ),
    "blip2_t5": TinyConfig(
        "Blip2ForConditionalGeneration",
        {**_BLIP, "text_config": _T5},
        "BlipImageProcessor",
        _SQUARE,
        {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    ),
    "janus": TinyConfig("JanusForConditionalGeneration", _JANUS, "JanusImageProcessor", {**_SQUARE, "min_size": PATCH}),
    "internvl": TinyConfig(
        "InternVLForConditionalGeneration",
        _INTERNVL,
        "GotOcr2ImageProcessor",
        _SQUARE,
        {"eos_token_id": IDS["<|im_end|>"]},
        is_chatml=True,
    ),
}
