"""LLaVA-1.6 (LLaVA-NeXT): each frame is an image, seen whole and in tiles; one block for each frame, see `anyres`.

Source: LLaVA-NeXT (Liu et al., 2024) as transformers implements it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...clips.clip import Clip
from ..images.base import ImageTransform
from . import llava
from .anyres import Anyres

if TYPE_CHECKING:
    import torch


class LlavaNext(llava.Llava):
    """See `HubFamily`.

    Frames of a clip: (distinct frames, 1 + tiles, S, S, 3), the whole image first, then its tiles row by row.
    `Clip.size`: height and width of the frames before they were divided.
    """

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        super().__init__(config, frame_transform)
        self._check_grid()
        self._anyres = Anyres.of(config)

    def units(self, clip: Clip) -> np.ndarray:
        """All tiles of all distinct frames, (distinct frames * tiles, S, S, 3)."""
        return clip.frames.reshape(-1, *clip.frames.shape[2:])

    def block_lengths(self, clip: Clip) -> list[int]:
        return [self._anyres.length(clip)] * len(clip.frame_index)

    def model_class(self) -> type[Any]:
        from transformers import LlavaNextForConditionalGeneration

        return LlavaNextForConditionalGeneration

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        tiles, newline = self._anyres.tiles(clip), model.model.image_newline
        starts = range(0, len(features), tiles)
        distinct = [self._anyres.block(features[start : start + tiles], clip, newline) for start in starts]
        return [distinct[index] for index in clip.frame_index]
