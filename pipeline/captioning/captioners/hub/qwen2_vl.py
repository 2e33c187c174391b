"""Qwen2-VL and Qwen2.5-VL: any resolution, frames in pairs, positions on three axes. An image is a pair of itself.

Sources: Qwen2-VL (Wang et al., 2024, arXiv:2409.12191) and Qwen2.5-VL (Bai et al., 2025, arXiv:2502.13923) as
transformers implements them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...clips.clip import Clip
from ...process.errors import UsageError
from ..images.patches_of_two import PatchesOfTwo
from ..weights import WeightNames
from .family import HubFamily
from .qwen2_vl_grid import grid_plan
from .weight_prefixes import with_adapters

if TYPE_CHECKING:
    import torch

MIN_PIXELS, MAX_PIXELS = 128 * 28 * 28, 256 * 28 * 28
"""Default bounds of the pixels of a frame. The published ones allow 16,384 visual tokens for a frame."""
IMAGE_MIN_PIXELS, IMAGE_MAX_PIXELS = 256 * 28 * 28, 1280 * 28 * 28
"""Default bounds of the pixels of a still image: those that the model cards recommend."""
_PREFIXES = (
    ("visual.", "model.visual."),
    ("model.language_model.", "model.language_model."),
    ("model.visual.", "model.visual."),
    ("model.", "model.language_model."),
)


class Qwen2Vl(HubFamily):
    """Qwen2-VL, and Qwen2.5-VL, whose vision tower has windows and whose time axis counts seconds; see `HubFamily`.

    frame_transform: of the same patches as the tower.

    Raises:
        UsageError: config.json and preprocessor_config.json have different patches.
    """

    frame_transform: PatchesOfTwo
    image_transform: PatchesOfTwo | None = None

    def __init__(self, config: Mapping[str, Any], frame_transform: PatchesOfTwo) -> None:
        self.config, self.frame_transform = config, frame_transform
        vision = config["vision_config"]
        self._patch, self._merge = int(vision["patch_size"]), int(vision["spatial_merge_size"])
        self._pair = int(vision["temporal_patch_size"])
        own = (self._patch, self._merge, self._pair)
        given = (frame_transform.patch_size, frame_transform.merge_size, frame_transform.temporal_patch_size)
        if own != given:
            raise UsageError(
                f"patch size, merge size and temporal patch size are {own}, but {given} in preprocessor_config.json; "
                "take both files from the published checkpoint"
            )
        self._width = int(vision["hidden_size"])
        self._tokens_per_second, self._window = None, None
        self._full_layers = frozenset(range(int(vision["depth"])))
        if self._has_windows:
            self._mlp_values = 3 * int(vision["intermediate_size"])  # two projections and their product
            self._tokens_per_second = vision.get("tokens_per_second")
            self._window = int(vision["window_size"]) // self._merge // self._patch
            self._full_layers = frozenset(vision["fullatt_block_indexes"])
        else:
            self._width = int(vision["embed_dim"])
            self._mlp_values = 2 * int(self._width * vision["mlp_ratio"])

    @property
    def _has_windows(self) -> bool:
        return str(self.config.get("model_type", "")).startswith("qwen2_5")

    def units(self, clip: Clip) -> np.ndarray:
        """Pairs of sampled frames as patches, (pairs, rows, columns, values of a visual token), uint8.

        An odd last frame is repeated.
        """
        patches, (pairs, rows, columns) = self.frame_transform.patch_rows(clip.frames[list(clip.frame_index)])
        return patches.reshape(pairs, rows // self._merge, columns // self._merge, -1)

    def unit_count(self, clip: Clip) -> int:
        return self._grid(clip)[0]

    def block_lengths(self, clip: Clip) -> list[int]:
        pairs, rows, columns = self._grid(clip)
        return [pairs * rows * columns]

    def _grid(self, clip: Clip) -> tuple[int, int, int]:
        """Pairs of frames, rows and columns of visual tokens."""
        token = self._patch * self._merge
        return -(-len(clip.frame_index) // self._pair), clip.frames.shape[1] // token, clip.frames.shape[2] // token

    def weight_names(self) -> WeightNames:
        return WeightNames(with_adapters(_PREFIXES), lambda name: False)

    def model_class(self) -> type[Any]:
        from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration if self._has_windows else Qwen2VLForConditionalGeneration

    def features(self, model: Any, units: torch.Tensor) -> torch.Tensor:
        from .qwen2_vl_tower import normalised_rows, tower_features

        pairs, rows, columns, _ = units.shape
        tower = model.model.visual
        mean, std = self.frame_transform.row_normalization()
        patches = units.reshape(pairs, rows * columns * self._merge**2, -1)
        values = normalised_rows(patches, self.frame_transform.rescale_factor, mean, std)
        plan = grid_plan(rows, columns, self._merge, self._window, tower.blocks[0].attn.head_dim)
        return tower_features(tower, values, plan, self._full_layers)

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        return [features.reshape(-1, features.shape[-1])]

    def positions(
        self, pieces: Sequence[Sequence[int]], lengths: Sequence[int], clips: Sequence[Clip]
    ) -> tuple[np.ndarray, int]:
        """Text counts on all three axes; a block counts time, rows and columns from the position after the text.

        The text after a block counts from the position after the largest one of the block.
        """
        before, *others = map(len, pieces)
        parts, begin = [self.text_positions(before)], before
        for clip, after in zip(clips, others, strict=True):
            block = begin + self._block_positions(clip)
            begin = int(block.max()) + 1
            parts += [block, begin + self.text_positions(after)]
            begin += after
        return np.concatenate(parts, 1), begin

    def _block_positions(self, clip: Clip) -> np.ndarray:
        """Positions of the visual tokens of a clip on the three axes from 0, (3, tokens)."""
        pairs, rows, columns = self._grid(clip)
        time = np.arange(pairs)
        if self._tokens_per_second is not None:
            time = (time * np.float32(self._seconds_per_pair(clip)) * self._tokens_per_second).astype(np.int64)
        axes = np.meshgrid(time, np.arange(rows), np.arange(columns), indexing="ij")
        return np.stack([axis.reshape(-1) for axis in axes])

    def text_positions(self, tokens: int) -> np.ndarray:
        return np.tile(np.arange(tokens), (3, 1))

    def _seconds_per_pair(self, clip: Clip) -> float:
        """The duration of the clip for each pair of frames, as the loader of the publishers (qwen-vl-utils) has it."""
        index = clip.frame_index
        is_padded = len(index) > 1 and index[-1] == index[-2]  # an odd last frame was repeated
        frames = len(index) - int(is_padded)
        return self._pair * clip.duration / frames if clip.duration > 0 else 1.0

    def unit_bytes(self, itemsize: int) -> int:
        return self._bytes(self.frame_transform, itemsize)

    def image_unit_bytes(self, itemsize: int) -> int:
        return self._bytes(self.image_transform or self.frame_transform, itemsize)

    def _bytes(self, transform: PatchesOfTwo, itemsize: int) -> int:
        float32, width = 4, self._width
        pixels = 3 * self._pair * self._patch**2
        # Rows are normalised in float32 and rounded to the computing type.
        embedding = pixels * (1 + 2 * float32 + itemsize)
        # The input, queries, keys and values; and five sets of queries and keys in float32 while these are rotated.
        attention = 4 * width * itemsize + 5 * (2 * width) * float32
        mlp = (2 * width + self._mlp_values) * itemsize  # the input, its norm and the inner layer
        patches = max(self._merge**2, transform.max_pixels // self._patch**2)
        return patches * max(embedding, attention, mlp)
