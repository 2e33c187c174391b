"""LLaVA-OneVision: a video is one block of pooled frames with one newline vector at its end.

Source: LLaVA-OneVision (Li et al., 2024, arXiv:2408.03326) as transformers implements it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...clips.clip import Clip
from ..images.base import ImageTransform
from . import llava

if TYPE_CHECKING:
    import torch


class LlavaOnevision(llava.Llava):
    """See `HubFamily`."""

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        super().__init__(config, frame_transform)
        self._check_grid()

    def block_lengths(self, clip: Clip) -> list[int]:
        return [len(clip.frame_index) * math.ceil(self._grid / 2) ** 2 + 1]

    def model_class(self) -> type[Any]:
        from transformers import LlavaOnevisionForConditionalGeneration

        return LlavaOnevisionForConditionalGeneration

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .towers import pool_bilinear

        return pool_bilinear(super().features(model, units), self._grid)

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        import torch

        frames = features[list(clip.frame_index)]
        newline = model.model.image_newline[None].to(features.dtype)
        return [torch.cat([frames.reshape(-1, frames.shape[-1]), newline])]
