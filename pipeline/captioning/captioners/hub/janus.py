"""Janus in the layout of transformers, for understanding only: each sampled frame is a block of visual tokens.

Source: Janus-Pro (Chen et al., 2025, arXiv:2501.17811) as transformers implements it. The parts of the model that
generate images are neither built nor loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...clips.clip import Clip
from ..images.base import ImageTransform
from ..weights import WeightNames
from .family import HubFamily
from .weight_prefixes import with_adapters

if TYPE_CHECKING:
    import torch

_UNUSED = re.compile(r"model\.(vqmodel|generation_embeddings|generation_aligner|generation_head)\..*")


class Janus(HubFamily):
    """See `HubFamily`."""

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        self.config, self.frame_transform = config, frame_transform
        self._vision, self._text = config["vision_config"], config["text_config"]
        self._tokens = (int(self._vision["image_size"]) // int(self._vision["patch_size"])) ** 2

    def block_lengths(self, clip: Clip) -> list[int]:
        return [self._tokens] * len(clip.frame_index)

    def weight_names(self) -> WeightNames:
        return WeightNames(with_adapters(()), lambda name: bool(_UNUSED.fullmatch(name)))

    def model_class(self) -> type[Any]:
        from .janus_model import JanusForUnderstanding

        return JanusForUnderstanding

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .towers import normalised

        inner = model.model
        pixels = normalised(units, self.frame_transform, inner.aligner.fc1.weight.dtype)
        return inner.aligner(inner.vision_model(pixels).last_hidden_state)

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        return [features[index] for index in clip.frame_index]

    def unit_bytes(self, itemsize: int) -> int:
        hidden = self._vision["hidden_size"]
        widths = 4 * hidden + 2 * int(hidden * self._vision["mlp_ratio"]) + 2 * self._vision["projection_dim"]
        return int(self._tokens * widths * itemsize)
