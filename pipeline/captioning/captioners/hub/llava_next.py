"""LLaVA-1.6 (LLaVA-NeXT): each frame is an image, seen whole and in tiles; one block for each frame.

A block has the patches of the whole image, then those of the tiles, joined to one grid, without the rows or columns
that are padding, and with a newline vector after each row.

Source: LLaVA-NeXT (Liu et al., 2024) as transformers implements it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...clips.clip import Clip
from ...process.errors import UsageError
from ..images.base import ImageTransform
from ..images.tiles import grid_shape, kept_patches
from . import llava

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
        self._pinpoints = tuple((int(height), int(width)) for height, width in config["image_grid_pinpoints"])
        side = int(self._vision["image_size"])
        if any(length < side or length % side for pinpoint in self._pinpoints for length in pinpoint):
            raise UsageError(
                f"image_grid_pinpoints {config['image_grid_pinpoints']} are not multiples of image_size {side} of the "
                "vision_config; take config.json from the published checkpoint"
            )

    def units(self, clip: Clip) -> np.ndarray:
        """All tiles of all distinct frames, (distinct frames * tiles, S, S, 3)."""
        return clip.frames.reshape(-1, *clip.frames.shape[2:])

    def block_lengths(self, clip: Clip) -> list[int]:
        _, _, rows, columns = self._tile_grid(clip)
        return [self._patches + len(rows) * (len(columns) + 1)] * len(clip.frame_index)

    def _tile_grid(self, clip: Clip) -> tuple[int, int, range, range]:
        """Rows and columns of tiles, and the rows and columns of their patches that are not padding."""
        height, width = clip.size
        assert height > 0 and width > 0, f"clip {clip.row} ({clip.path}): the size of its frames is not known"
        rows, columns = grid_shape(height, width, self._pinpoints, int(self._vision["image_size"]))
        return rows, columns, *kept_patches(height, width, rows * self._grid, columns * self._grid)

    def model_class(self) -> type[Any]:
        from transformers import LlavaNextForConditionalGeneration

        return LlavaNextForConditionalGeneration

    def blocks(self, model: Any, features: torch.Tensor, clip: Clip) -> list[torch.Tensor]:
        import torch

        tile_rows, tile_columns, rows, columns = self._tile_grid(clip)
        width, grid = features.shape[-1], self._grid
        newlines = model.model.image_newline.to(features.dtype).expand(len(rows), 1, width)
        distinct = []
        for start in range(0, len(features), 1 + tile_rows * tile_columns):
            whole, tiles = features[start], features[start + 1 : start + 1 + tile_rows * tile_columns]
            by_row = tiles.reshape(tile_rows, tile_columns, grid, grid, width).permute(0, 2, 1, 3, 4)
            patches = by_row.reshape(tile_rows * grid, tile_columns * grid, width)
            kept = patches[rows.start : rows.stop, columns.start : columns.stop]
            distinct.append(torch.cat([whole, torch.cat([kept, newlines], 1).reshape(-1, width)]))
        return [distinct[index] for index in clip.frame_index]
