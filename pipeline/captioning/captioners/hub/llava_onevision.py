"""LLaVA-OneVision: a video is one block of pooled frames with one newline vector at its end; an image has tiles.

Source: LLaVA-OneVision (Li et al., 2024, arXiv:2408.03326) as transformers implements it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...clips.clip import Clip
from ..images.base import ImageTransform
from . import llava
from .anyres import Anyres, most_tiles

if TYPE_CHECKING:
    import torch


class LlavaOnevision(llava.Llava):
    """See `HubFamily`. The features of still images are not pooled; large grids are shrunk, see `Anyres`.

    Frames of a still image: (1, 1 + tiles, S, S, 3), see `OnevisionTiles`; of one of several images in a prompt:
    (1, 1, S, S, 3), see `OnevisionSquare`. The block of the latter is its patches, with a newline vector at the end.

    Raises:
        UsageError: see `Llava`; or `vision_aspect_ratio` has no limit for the tiles.
    """

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        super().__init__(config, frame_transform)
        self._check_grid()
        self._anyres = Anyres.of(config, most_tiles(config["vision_aspect_ratio"]))

    def units(self, clip: Clip) -> np.ndarray:
        """The frames of a video, or the tiles of a still image, (units, S, S, 3)."""
        return clip.frames.reshape(-1, *clip.frames.shape[-3:])

    def block_lengths(self, clip: Clip) -> list[int]:
        if _is_one_of_several(clip):
            return [self._patches + 1]
        if clip.is_image:
            return [self._anyres.length(clip)]
        return [len(clip.frame_index) * math.ceil(self._grid / 2) ** 2 + 1]

    def model_class(self) -> type[Any]:
        from transformers import LlavaOnevisionForConditionalGeneration

        return LlavaOnevisionForConditionalGeneration

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .towers import pool_bilinear

        return pool_bilinear(super().features(model, units), self._grid)

    def image_features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        return super().features(model, units)

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        import torch

        if clip.is_image and not _is_one_of_several(clip):
            return [self._anyres.block(features, clip, model.model.image_newline)]
        frames = features[list(clip.frame_index)]
        newline = model.model.image_newline[None].to(features.dtype)
        return [torch.cat([frames.reshape(-1, frames.shape[-1]), newline])]


def _is_one_of_several(clip: Clip) -> bool:
    """An image that is alone has one tile of the whole, and at least one more."""
    return clip.is_image and clip.frames.shape[1] == 1
