"""LLaVA-NeXT-Video: a video is one block of pooled frames without newline vectors; an image is that of LLaVA-1.6.

Source: LLaVA-NeXT-Video (Zhang et al., 2024) as transformers implements it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...clips.clip import Clip
from ...process.errors import UsageError
from ..images.base import ImageTransform
from . import llava
from .anyres import Anyres

if TYPE_CHECKING:
    import torch

_POOL_MODES = ("average", "max")


class LlavaNextVideo(llava.Llava):
    """See `HubFamily`. Frames of a video are pooled before the projector. A still image has tiles, see `LlavaNext`.

    Raises:
        UsageError: see `Llava`; or the config has another mode of pooling.
    """

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        super().__init__(config, frame_transform)
        self._check_grid()
        self._anyres = Anyres.of(config)
        self._mode, self._stride = config["spatial_pool_mode"], int(config["spatial_pool_stride"])
        if self._mode not in _POOL_MODES:
            raise UsageError(f"spatial_pool_mode {self._mode!r} is not supported; set {' or '.join(_POOL_MODES)}")

    def units(self, clip: Clip) -> np.ndarray:
        """The frames of a video, or the tiles of a still image, (units, S, S, 3)."""
        return clip.frames.reshape(-1, *clip.frames.shape[-3:])

    def block_lengths(self, clip: Clip) -> list[int]:
        if clip.is_image:
            return [self._anyres.length(clip)]
        return [len(clip.frame_index) * (self._grid // self._stride) ** 2]

    def model_class(self) -> type[Any]:
        from transformers import LlavaNextVideoForConditionalGeneration

        return LlavaNextVideoForConditionalGeneration

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .towers import pool_windows

        pooled = pool_windows(self._tower(model, units), self._grid, self._stride, self._mode)
        return model.model.multi_modal_projector(pooled)

    def image_features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        return super().features(model, units)

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        if clip.is_image:
            return [self._anyres.block(features, clip, model.model.image_newline)]
        return [features[list(clip.frame_index)].reshape(-1, features.shape[-1])]
