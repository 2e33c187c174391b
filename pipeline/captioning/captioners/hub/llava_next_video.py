"""LLaVA-NeXT-Video: a video is one block of pooled frames without newline vectors.

Source: LLaVA-NeXT-Video (Zhang et al., 2024) as transformers implements it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...clips.clip import Clip
from ...process.errors import UsageError
from ..images.base import ImageTransform
from . import llava

if TYPE_CHECKING:
    import torch

_POOL_MODES = ("average", "max")


class LlavaNextVideo(llava.Llava):
    """See `HubFamily`. Frames are pooled before the projector.

    Raises:
        UsageError: see `Llava`; or the config has another mode of pooling.
    """

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        super().__init__(config, frame_transform)
        self._check_grid()
        self._mode, self._stride = config["spatial_pool_mode"], int(config["spatial_pool_stride"])
        if self._mode not in _POOL_MODES:
            raise UsageError(f"spatial_pool_mode {self._mode!r} is not supported; set {' or '.join(_POOL_MODES)}")

    def block_lengths(self, clip: Clip) -> list[int]:
        return [len(clip.frame_index) * (self._grid // self._stride) ** 2]

    def model_class(self) -> type[Any]:
        from transformers import LlavaNextVideoForConditionalGeneration

        return LlavaNextVideoForConditionalGeneration

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .towers import pool_windows

        pooled = pool_windows(self._tower(model, units), self._grid, self._stride, self._mode)
        return model.model.multi_modal_projector(pooled)

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        return [features[list(clip.frame_index)].reshape(-1, features.shape[-1])]
