"""LLaVA-1.5: every frame is an image of its own, one block for each. Also what all LLaVA families have in common.

Source: LLaVA-1.5 (Liu et al., 2023, arXiv:2310.03744) as transformers implements it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...clips.clip import Clip
from ...process.errors import UsageError
from ..images.base import ImageTransform
from ..weights import WeightNames
from .family import HubFamily, kept_layers
from .weight_prefixes import with_adapters

if TYPE_CHECKING:
    import torch

_TOWERS = ("clip_vision_model", "siglip_vision_model")
# The names of published checkpoints; transformers since 4.52 stores the names of the model.
_PREFIXES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
    ("model.layers.", "model.language_model.layers."),  # a PEFT adapter of the text model
)
_VISION_LAYER = re.compile(r"model\.vision_tower\.vision_model\.encoder\.layers\.(\d+)\.")


class Llava(HubFamily):
    """A CLIP or SigLIP tower, a projector of two layers, and a text model; see `HubFamily`.

    Raises:
        UsageError: the config names another kind of tower, several layers of it, or one that it does not have.
    """

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        self.config, self.frame_transform = config, frame_transform
        self._vision, self._text = config["vision_config"], config["text_config"]
        tower, layer = self._vision["model_type"], config["vision_feature_layer"]
        if tower not in _TOWERS:
            raise UsageError(
                f"vision tower type {tower!r} is not supported; use a checkpoint with {' or '.join(_TOWERS)}"
            )
        if not isinstance(layer, int):
            raise UsageError(f"vision_feature_layer {layer!r} is not supported; use a checkpoint with one layer")
        if not 0 <= kept_layers(self._vision["num_hidden_layers"], layer) <= self._vision["num_hidden_layers"]:
            raise UsageError(
                f"vision_feature_layer {layer} is not in a tower of {self._vision['num_hidden_layers']} layers; take "
                "config.json from the published checkpoint"
            )
        self._drops_first = config["vision_feature_select_strategy"] == "default"
        self._grid = int(self._vision["image_size"]) // int(self._vision["patch_size"])
        class_tokens = 1 if tower == "clip_vision_model" else 0
        self._patches = self._grid**2 + class_tokens - int(self._drops_first)

    def _check_grid(self) -> None:
        """Check that exactly the patches are left, so that they make a square.

        Raises:
            UsageError: `vision_feature_select_strategy` does not fit the tower.
        """
        if self._patches != self._grid**2:
            raise UsageError(
                f"vision_feature_select_strategy {self.config['vision_feature_select_strategy']!r} leaves "
                f"{self._patches} features of {self._grid**2} patches; CLIP needs 'default' and SigLIP needs 'full'"
            )

    def block_lengths(self, clip: Clip) -> list[int]:
        return [self._patches] * len(clip.frame_index)

    def weight_names(self) -> WeightNames:
        return WeightNames(with_adapters(_PREFIXES), self._is_unused)

    def _is_unused(self, name: str) -> bool:
        """Whether a weight, given the model's name for it, belongs to a part that is not built."""
        layer = _VISION_LAYER.match(name)
        if layer:
            return int(layer[1]) >= kept_layers(self._vision["num_hidden_layers"], self.config["vision_feature_layer"])
        # SigLIP's head; and LLaVA-1.5 has no newline: the others build it, so that it is among their expected weights.
        return name.startswith("model.vision_tower.vision_model.head.") or name == "model.image_newline"

    def model_class(self) -> type[Any]:
        from transformers import LlavaForConditionalGeneration

        return LlavaForConditionalGeneration

    def adapt(self, config: Any) -> None:
        from .towers import keep_layers

        keep_layers(config.vision_config, config.vision_feature_layer)
        config.vision_config.vision_use_head = False  # of SigLIP

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        return model.model.multi_modal_projector(self._tower(model, units))

    def _tower(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        """Features of uint8 images (units, height, width, 3) before the projector, (units, patches, vision width)."""
        from .towers import normalised, tower_features

        inner = model.model
        pixels = normalised(units, self.frame_transform, inner.multi_modal_projector.linear_1.weight.dtype)
        return tower_features(inner.vision_tower, pixels, self._drops_first)

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        return [features[index] for index in clip.frame_index]

    def unit_bytes(self, itemsize: int) -> int:
        widths = 4 * self._vision["hidden_size"] + 2 * self._vision["intermediate_size"] + 3 * self._text["hidden_size"]
        return int(self._grid**2 * widths * itemsize)
