"""LLaVA-Video in its publishers' layout: transformers' LLaVA-OneVision with other names, other pooling and newlines.

Source: LLaVA-Video (Zhang et al., 2024, arXiv:2410.02713) and its public implementation, LLaVA-VL/LLaVA-NeXT at commit
df17966, where videos go through `prepare_inputs_labels_for_multimodal` and `get_2dPool`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...clips.clip import Clip
from ...process.errors import UsageError
from ..images.base import ImageTransform
from ..weights import WeightNames
from . import llava
from .config_defaults import check_whole_number, completed
from .weight_prefixes import with_adapters

if TYPE_CHECKING:
    import torch

_SIGLIP_SO400M: Mapping[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
"""The tower of google/siglip-so400m-patch14-384, as the first part of its config.json says."""
_TEXT_KEYS = (
    "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "initializer_range",
    "intermediate_size", "max_position_embeddings", "max_window_layers", "num_attention_heads", "num_hidden_layers",
    "num_key_value_heads", "rms_norm_eps", "rope_scaling", "rope_theta", "sliding_window", "tie_word_embeddings",
    "use_sliding_window",
)  # fmt: skip
_POOL_MODES = ("bilinear", "average", "max")
_NEWLINES = ("grid", "frame", "one_token", "no_token")
_MODULES = (
    ("model.vision_tower.vision_tower.", "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
)
_TOWER = ("vision_model.", "model.vision_tower.vision_model.")
"""Of the tower in a folder of its own."""
_EMBEDDINGS, _HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"


def onevision_config(
    config: Mapping[str, Any], vocabulary: int, path: Path, tower: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The config of transformers' LLaVA-OneVision for a config.json of the publishers' layout.

    vocabulary: number of tokens of the tokenizer. The rows of the embeddings beyond it are not used.
    path: of config.json, for messages.
    tower: `vision_config` of the folder in which the vision tower is published, with all its layers. None:
        google/siglip-so400m-patch14-384.

    Raises:
        UsageError: the config describes something that LLaVA-Video does not have, does not fit the tower, or has an
            entry of the wrong type; names the file.
    """
    name = str(config.get("mm_vision_tower") or config.get("vision_tower"))
    vision = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, **(tower or _SIGLIP_SO400M)}
    if tower is None and name.rstrip("/").rpartition("/")[2] != "siglip-so400m-patch14-384":
        raise UsageError(f"{path}: the vision tower {name} is not known; give its folder as --vision_tower")
    width = config.get("mm_hidden_size", vision["hidden_size"])
    if width != vision["hidden_size"]:
        raise UsageError(
            f"{path}: mm_hidden_size is {width}, but the vision tower has {vision['hidden_size']}; give the "
            "tower's own folder as --vision_tower"
        )
    projector = config.get("mm_projector_type", "linear")
    if projector != "mlp2x_gelu":
        raise UsageError(f"{path}: mm_projector_type {projector!r} is not supported; use a checkpoint with mlp2x_gelu")
    if config.get("add_faster_video"):
        raise UsageError(
            f"{path}: add_faster_video is not supported, the public program can't run it either; remove it"
        )
    text = {key: config[key] for key in _TEXT_KEYS if key in config}
    made = {
        **{key: config[key] for key in ("quantization_config",) if key in config},  # `completed` refuses it
        "text_config": {**text, "model_type": "qwen2", "vocab_size": vocabulary},
        "vision_config": {**vision, "model_type": "siglip_vision_model"},
        # The public program deletes the last layer of the tower and reads what is then the last. It does not read
        # mm_vision_select_layer.
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "mm_spatial_pool_mode": config.get("mm_spatial_pool_mode", "bilinear"),
        "mm_newline_position": config.get("mm_newline_position", "one_token"),
    }
    done = completed(made, "llava_onevision", path)
    longest = config.get("tokenizer_model_max_length")
    if longest is not None:  # the public program cuts longer prompts off, the question first
        check_whole_number("tokenizer_model_max_length", longest, str(path))
        done["text_config"]["max_position_embeddings"] = min(text.get("max_position_embeddings", longest), longest)
    return done


class LlavaQwen(llava.Llava):
    """See `HubFamily`. config: made by `onevision_config`.

    Raises:
        UsageError: the config has another mode of pooling, or another position of newlines.
    """

    images_are_frames = True

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        super().__init__(config, frame_transform)
        self._mode, self._newlines = config["mm_spatial_pool_mode"], config["mm_newline_position"]
        for key, known in (("mm_spatial_pool_mode", _POOL_MODES), ("mm_newline_position", _NEWLINES)):
            if config[key] not in known:
                raise UsageError(f"{key} {config[key]!r} is not supported; set one of {', '.join(known)}")
        self._rows = math.ceil(self._grid / 2) if self._mode == "bilinear" else self._grid // 2

    def block_lengths(self, clip: Clip) -> list[int]:
        frames = len(clip.frame_index)
        newlines = {"grid": frames * self._rows, "frame": frames, "one_token": 1, "no_token": 0}
        return [frames * self._rows**2 + newlines[self._newlines]]

    def weight_names(self) -> WeightNames:
        rows = {name: int(self.config["text_config"]["vocab_size"]) for name in (_EMBEDDINGS, _HEAD)}
        return WeightNames(with_adapters((*_MODULES, _TOWER)), self._is_unused, rows=rows)

    def _is_unused(self, name: str) -> bool:
        # The folder in which a tower is published has SigLIP's text model too.
        return name.startswith(("text_model.", "logit_")) or super()._is_unused(name)

    def model_class(self) -> type[Any]:
        from transformers import LlavaOnevisionForConditionalGeneration

        return LlavaOnevisionForConditionalGeneration

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .towers import pool_bilinear, pool_windows

        features = super().features(model, units)
        if self._mode == "bilinear":
            return pool_bilinear(features, self._grid)
        return pool_windows(features, self._grid, 2, self._mode)

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        import torch

        frames, width = features[list(clip.frame_index)], features.shape[-1]
        if self._newlines == "no_token":
            return [frames.reshape(-1, width)]
        # Tokens between two newlines: those of a row, of a frame, or of the whole video.
        tokens = {"grid": self._rows, "frame": self._rows**2, "one_token": len(frames) * self._rows**2}
        lines = frames.reshape(-1, tokens[self._newlines], width)
        newlines = model.model.image_newline.to(features.dtype).expand(len(lines), 1, width)
        return [torch.cat([lines, newlines], 1).reshape(-1, width)]


def is_of_tower(name: str) -> bool:
    """Whether a weight, given the model's name for it, belongs to the vision tower."""
    return name.startswith("model.vision_tower.")
