"""InternVL in the layout of transformers: each sampled frame is a block of visual tokens, of one tile or several.

Source: InternVL3 (Zhu et al., 2025, arXiv:2504.10479) as transformers implements it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...clips.clip import Clip
from ...process.errors import UsageError
from ..images.base import ImageTransform
from ..weights import WeightNames
from .family import HubFamily
from .weight_prefixes import with_adapters

if TYPE_CHECKING:
    import torch

# The published checkpoints have the names on the left; newer versions of transformers can also store the model's names.
_PREFIXES = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)


class InternVl(HubFamily):
    """See `HubFamily`. Frames of a clip: (distinct frames, tiles, S, S, 3), or (distinct frames, S, S, 3) for one tile.

    Raises:
        UsageError: the config asks for features that the model class of transformers does not compute.
    """

    def __init__(self, config: Mapping[str, Any], frame_transform: ImageTransform) -> None:
        self.config, self.frame_transform = config, frame_transform
        vision = config["vision_config"]
        for key, supported in (("vision_feature_layer", -1), ("vision_feature_select_strategy", "default")):
            if config[key] != supported:
                raise UsageError(
                    f"{key} {config[key]!r} is not supported for InternVL; use a checkpoint with {supported!r}"
                )
        size, patch = _square("image_size", vision["image_size"]), _square("patch_size", vision["patch_size"])
        self._grid = size // patch
        self._side = int(self._grid * config["downsample_ratio"])
        self._vision, self._text = vision, config["text_config"]

    def block_lengths(self, clip: Clip) -> list[int]:
        return [_tiles(clip) * self._side**2] * len(clip.frame_index)

    def units(self, clip: Clip) -> np.ndarray:
        """The tiles of all distinct frames, (distinct frames * tiles, S, S, 3)."""
        return clip.frames.reshape(-1, *clip.frames.shape[-3:])

    def weight_names(self) -> WeightNames:
        return WeightNames(with_adapters(_PREFIXES), lambda name: False)

    def model_class(self) -> type[Any]:
        from transformers import InternVLForConditionalGeneration

        return InternVLForConditionalGeneration

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .towers import normalised

        inner = model.model
        pixels = normalised(units, self.frame_transform, inner.multi_modal_projector.linear_1.weight.dtype)
        patches = inner.vision_tower(pixels).last_hidden_state[:, 1:]
        grid = patches.reshape(len(patches), self._grid, self._grid, -1)
        shuffled = inner.pixel_shuffle(grid, scale_factor=self.config["downsample_ratio"])
        return inner.multi_modal_projector(shuffled.reshape(len(patches), self._side**2, -1))

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        frames = features.reshape(-1, _tiles(clip) * self._side**2, features.shape[-1])
        return [frames[index] for index in clip.frame_index]

    def unit_bytes(self, itemsize: int) -> int:
        widths = 4 * self._vision["hidden_size"] + 2 * self._vision["intermediate_size"] + self._text["hidden_size"]
        return int((self._grid**2 + 1) * widths * itemsize)


def _square(name: str, value: Any) -> int:
    """The side of a square that config.json gives as a number or as a list of height and width."""
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1 or min(sides) < 1:
        raise UsageError(f"{name} {value} of the vision_config is not the size of a square; set one number")
    return int(sides.pop())


def _tiles(clip: Clip) -> int:
    """Tiles of each frame, with the thumbnail."""
    return clip.frames.shape[1] if clip.frames.ndim == 5 else 1
