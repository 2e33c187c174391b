"""Qwen2-VL and Qwen2.5-VL: videos of any resolution, frames in pairs, positions on three axes.

Sources: Qwen2-VL (Wang et al., 2024, arXiv:2409.12191) and Qwen2.5-VL (Bai et al., 2025, arXiv:2502.13923) as
transformers implements them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...clips.clip import Clip
from ..base import FrameTransform
from ..weights import WeightNames
from .family import HubFamily
from .weight_prefixes import with_adapters

if TYPE_CHECKING:
    import torch

MIN_PIXELS, MAX_PIXELS = 128 * 28 * 28, 256 * 28 * 28
"""Default bounds of the pixels of a frame. The published ones allow 16,384 visual tokens for a frame."""
_PREFIXES = (
    ("visual.", "model.visual."),
    ("model.language_model.", "model.language_model."),
    ("model.visual.", "model.visual."),
    ("model.", "model.language_model."),
)


def weight_names() -> WeightNames:
    """The names of weights in published checkpoints."""
    return WeightNames(with_adapters(_PREFIXES), lambda name: False)


class Qwen2Vl(HubFamily):
    """Qwen2-VL, and Qwen2.5-VL, whose vision tower has windows and whose time axis counts seconds; see `HubFamily`.

    seconds_per_pair: time from one pair of frames to the next, of a clip. None: the time axis counts pairs (Qwen2-VL).
    """

    def __init__(self, config: Mapping[str, Any], frame_transform: FrameTransform, mean: Any, std: Any) -> None:
        self.config, self.frame_transform, self.mean, self.std = config, frame_transform, mean, std
        vision = config["vision_config"]
        self._patch, self._merge = int(vision["patch_size"]), int(vision["spatial_merge_size"])
        self._pair = int(vision["temporal_patch_size"])
        self._vision = vision
        self._tokens_per_second = vision.get("tokens_per_second") if self._has_windows else None

    @property
    def _has_windows(self) -> bool:
        return str(self.config.get("model_type", "")).startswith("qwen2_5")

    def units(self, clip: Clip) -> np.ndarray:
        """Pairs of sampled frames, (pairs, 2, height, width, 3); an odd last frame is repeated."""
        index = list(clip.frame_index)
        index += index[-1:] * (-len(index) % self._pair)
        return clip.frames[index].reshape(-1, self._pair, *clip.frames.shape[1:])

    def block_lengths(self, clip: Clip) -> list[int]:
        pairs, rows, columns = self._grid(clip)
        return [pairs * rows * columns]

    def _grid(self, clip: Clip) -> tuple[int, int, int]:
        """Pairs of frames, rows and columns of visual tokens."""
        token = self._patch * self._merge
        return -(-len(clip.frame_index) // self._pair), clip.frames.shape[1] // token, clip.frames.shape[2] // token

    def model_class(self) -> type[Any]:
        from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration if self._has_windows else Qwen2VLForConditionalGeneration

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        import torch

        from .towers import normalised

        tower = model.model.visual
        values = normalised(units, self.mean, self.std, tower.dtype)  # (pairs, 2, 3, height, width)
        pairs, _, _, height, width = values.shape
        rows, columns = height // self._patch, width // self._patch
        split = values.reshape(
            pairs, self._pair, 3, rows // self._merge, self._merge, self._patch,
            columns // self._merge, self._merge, self._patch,
        )  # fmt: skip
        patches = split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(pairs * rows * columns, -1)
        # Pairs do not see each other in the tower, so each may count as a video of its own.
        grid = torch.tensor([[1, rows, columns]] * pairs, device=units.device)
        tokens = tower(patches, grid_thw=grid)
        return tokens.reshape(pairs, -1, tokens.shape[-1])

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        return [features.reshape(-1, features.shape[-1])]

    def positions(self, pieces: Sequence[Sequence[int]], lengths: Sequence[int], clip: Clip) -> tuple[np.ndarray, int]:
        """Text counts on all three axes; a block counts time, rows and columns from the position after the text."""
        before, after = map(len, pieces)
        pairs, rows, columns = self._grid(clip)
        time = np.arange(pairs)
        if self._tokens_per_second is not None:
            time = (time * np.float32(self._seconds_per_pair(clip)) * self._tokens_per_second).astype(np.int64)
        axes = [axis.reshape(-1) for axis in np.meshgrid(time, np.arange(rows), np.arange(columns), indexing="ij")]
        block = before + np.stack(axes)
        begin = int(block.max()) + 1
        first, last = (
            np.tile(np.arange(start, start + count), (3, 1)) for start, count in ((0, before), (begin, after))
        )
        return np.concatenate([first, block, last], 1), begin + after

    def _seconds_per_pair(self, clip: Clip) -> float:
        seconds: tuple[float, ...] = getattr(clip, "seconds", ())
        if len(seconds) > 2 and seconds[-1] == seconds[-2]:
            seconds = seconds[:-1]  # an odd last frame was repeated
        if len(seconds) < 2 or seconds[-1] <= seconds[0]:
            return 1.0
        return self._pair * (seconds[-1] - seconds[0]) / (len(seconds) - 1)

    def unit_bytes(self, itemsize: int) -> int:
        widths = 4 * int(self._vision.get("hidden_size", self._vision.get("embed_dim", 1280))) * 4
        return int(4096 * widths * itemsize)
