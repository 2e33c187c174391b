"""LLaVA-OneVision: a video is one block of pooled frames with one newline vector at its end.

Source: LLaVA-OneVision (Li et al., 2024, arXiv:2408.03326) as transformers implements it.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...clips.clip import Clip
from ...clips.sampling import FrameSampling
from ...generation.options import GenerationOptions
from ..base import FrameTransform
from ..images import from_folder
from ..weights import WeightNames
from .build import FamilyParts, make_hub_source
from .family import HubFamily
from .source import HubSource

if TYPE_CHECKING:
    import torch

DEFAULT_SAMPLING = FrameSampling("uniform", 8)
_PREFIXES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("image_newline", "model.image_newline"),
)
_UNUSED = re.compile(r"model\.vision_tower\.vision_model\.(post_layernorm|head)\..*")


def make_source(
    name: str, flags: argparse.Namespace, sampling: FrameSampling, generation: GenerationOptions
) -> HubSource:
    """The source of a LLaVA-OneVision checkpoint; raises as `make_hub_source`."""
    return make_hub_source(name, flags, sampling, generation, _parts)


def _parts(folder: Path, config: dict[str, Any], flags: argparse.Namespace) -> FamilyParts:
    transform = from_folder(folder, "square")
    names = WeightNames(_PREFIXES, lambda weight: bool(_UNUSED.fullmatch(weight)))
    return FamilyParts(
        LlavaOnevision(config, transform, transform.mean, transform.std), transform, names, "video", True
    )


class LlavaOnevision(HubFamily):
    """See `HubFamily`."""

    def __init__(self, config: Mapping[str, Any], frame_transform: FrameTransform, mean: Any, std: Any) -> None:
        self.config, self.frame_transform, self.mean, self.std = config, frame_transform, mean, std
        vision = config["vision_config"]
        self._grid = int(vision["image_size"]) // int(vision["patch_size"])
        self._vision, self._text = vision, config["text_config"]

    def block_lengths(self, clip: Clip) -> list[int]:
        return [len(clip.frame_index) * math.ceil(self._grid / 2) ** 2 + 1]

    def model_class(self) -> type[Any]:
        from transformers import LlavaOnevisionForConditionalGeneration

        return LlavaOnevisionForConditionalGeneration

    def adapt(self, config: Any) -> None:
        from .towers import keep_layers

        keep_layers(config.vision_config, config.vision_feature_layer)

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .towers import normalised, pool_bilinear, tower_features

        inner = model.model
        pixels = normalised(units, self.mean, self.std, inner.image_newline.dtype)
        has_class_token = model.config.vision_feature_select_strategy == "default"
        features = inner.multi_modal_projector(tower_features(inner.vision_tower, pixels, has_class_token))
        return pool_bilinear(features, self._grid)

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        import torch

        frames = features[list(clip.frame_index)]
        newline = model.model.image_newline[None].to(features.dtype)
        return [torch.cat([frames.reshape(-1, frames.shape[-1]), newline])]

    def unit_bytes(self, itemsize: int) -> int:
        widths = 4 * self._vision["hidden_size"] + 2 * self._vision["intermediate_size"] + 3 * self._text["hidden_size"]
        return int(self._grid**2 * widths * itemsize)
