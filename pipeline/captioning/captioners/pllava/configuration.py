"""PLLaVA's configuration: reads a checkpoint's `config.json`, checks it and adds default values.

Imports no framework: the configuration is read before a framework is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...process.errors import UsageError
from ..checkpoint_config import read_config

DEFAULT_POOLING_SHAPE = (16, 12, 12)

# transformers does not write default values to config.json; these are its defaults for CLIP and Llama.
_VISION_DEFAULTS = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_VISION_DEFAULTS |= {"intermediate_size": 3072, "image_size": 224, "patch_size": 32}
_TEXT_DEFAULTS = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
_TEXT_DEFAULTS |= {"intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 2048}


@dataclass(frozen=True)
class PllavaConfig:
    """Architecture of one PLLaVA checkpoint.

    vision: entries for transformers' CLIPVisionConfig.
    text: entries for transformers' LlamaConfig.
    image_token_id: the token that the visual tokens replace.
    vision_layers: number of layers of the vision tower that are run, up to `hidden_states[vision_feature_layer]`.
    pooling_shape: visual tokens after pooling as (time, rows, columns).
    has_pooling_shape: whether config.json contains a pooling shape; otherwise it is DEFAULT_POOLING_SHAPE.
    projector_activation: name of the projector's activation function in transformers.
    """

    vision: dict[str, Any]
    text: dict[str, Any]
    image_token_id: int
    vision_layers: int
    pooling_shape: tuple[int, int, int]
    has_pooling_shape: bool = True
    projector_activation: str = "gelu"

    @classmethod
    def from_folder(cls, folder: Path) -> PllavaConfig:
        """Read `config.json`.

        Raises:
            UsageError: the file is missing or unreadable, or does not describe a PLLaVA on CLIP and Llama.
        """
        return cls.from_dict(read_config(folder), str(folder / "config.json"))

    @classmethod
    def from_dict(cls, config: dict[str, Any], source: str = "config") -> PllavaConfig:
        vision = _VISION_DEFAULTS | config.get("vision_config", {})
        text = _TEXT_DEFAULTS | config.get("text_config", {})
        for part, name, known in (
            (vision, "vision_config", "clip_vision_model"),
            (text, "text_config", "llama"),
        ):
            model_type = part.get("model_type", known)
            if model_type != known:
                raise UsageError(f"{source}: {name} has the type {model_type!r}, but PLLaVA needs {known!r}")
        if "image_token_index" not in config:
            raise UsageError(f"{source} has no image_token_index; is this a PLLaVA or LLaVA checkpoint?")
        if config.get("vision_feature_select_strategy", "default") != "default":
            raise UsageError(f"{source}: only vision_feature_select_strategy 'default' (no class token) is supported")
        if config.get("pooling_method", "avg") != "avg":
            raise UsageError(f"{source}: pooling_method {config['pooling_method']!r} is not supported, only 'avg'")
        pooling_shape = config.get("pooling_shape")
        is_shape = isinstance(pooling_shape, list) and len(pooling_shape) == 3
        if pooling_shape is not None and not (is_shape and all(n in range(1, 10**4) for n in pooling_shape)):
            raise UsageError(f"{source}: pooling_shape {pooling_shape} is not a list of three whole numbers >= 1")
        text.setdefault("tie_word_embeddings", False)
        return cls(
            vision=vision,
            text=text,
            image_token_id=config["image_token_index"],
            vision_layers=_layers_to_run(config.get("vision_feature_layer", -2), vision["num_hidden_layers"]),
            pooling_shape=tuple(pooling_shape or DEFAULT_POOLING_SHAPE),
            has_pooling_shape=pooling_shape is not None,
            projector_activation=config.get("projector_hidden_act", "gelu"),
        )

    @property
    def image_size(self) -> int:
        """Height and width of the vision tower's input, in pixels."""
        return self.vision["image_size"]

    @property
    def patch_grid(self) -> int:
        """Number of patches along each side of a frame."""
        return self.vision["image_size"] // self.vision["patch_size"]

    @property
    def max_positions(self) -> int:
        """Longest sequence that the text model was made for, in tokens."""
        return self.text["max_position_embeddings"]


def _layers_to_run(feature_layer: int, layers: int) -> int:
    """hidden_states[0] is the output of the embeddings, hidden_states[-1] that of the last layer."""
    return feature_layer if feature_layer >= 0 else layers + 1 + feature_layer
