"""Visual tokens of an image of any resolution: the LLaVA families from LLaVA-1.6 on.

The tokens are the patches of the whole image, then those of its tiles, joined to one grid, without the rows or columns
that are padding, and with a newline vector after each row. `images.tiles` makes the tiles.

Sources: LLaVA-NeXT (Liu et al., 2024) and LLaVA-OneVision (Li et al., 2024, arXiv:2408.03326) as transformers
implements them. Until `block` is called, nothing here imports a framework.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...clips.clip import Clip
from ...process.errors import UsageError
from ..images.tiles import Resolutions, grid_shape, kept_patches

if TYPE_CHECKING:
    import torch

_SHRINK_FROM = 1.1
"""Grids that are larger than allowed by at most this factor for each side are not shrunk."""


@dataclass(frozen=True)
class Anyres:
    """The arithmetic of a checkpoint.

    pinpoints: the possible resolutions as (height, width), in pixels.
    side: of a tile, in pixels. grid: patches of the vision tower in a row of a tile.
    most_tiles: a grid with more patches than this number of tiles is shrunk by bilinear interpolation; 0 for no limit.
    """

    pinpoints: Resolutions
    side: int
    grid: int
    most_tiles: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any], most_tiles: int = 0) -> Anyres:
        """Read a completed config.json.

        Raises:
            UsageError: the resolutions are not multiples of the side of a tile.
        """
        side = int(config["vision_config"]["image_size"])
        pinpoints = tuple((int(height), int(width)) for height, width in config["image_grid_pinpoints"])
        if any(length < side or length % side for pinpoint in pinpoints for length in pinpoint):
            raise UsageError(
                f"image_grid_pinpoints {config['image_grid_pinpoints']} are not multiples of image_size {side} of the "
                "vision_config; take config.json from the published checkpoint"
            )
        return cls(pinpoints, side, side // int(config["vision_config"]["patch_size"]), most_tiles)

    def length(self, clip: Clip) -> int:
        """Visual tokens of each frame of a clip."""
        rows, columns = self._shrunk(*map(len, self._tile_grid(clip)[2:]))
        return self.grid**2 + rows * (columns + 1)

    def tiles(self, clip: Clip) -> int:
        """Tiles of each frame of a clip, with the whole image."""
        rows, columns, *_ = self._tile_grid(clip)
        return 1 + rows * columns

    def block(self, features: torch.Tensor, clip: Clip, newline: torch.Tensor) -> torch.Tensor:
        """The visual tokens of a frame, (tokens, width).

        features: of its tiles, (tiles, grid ** 2, width), the whole image first. newline: (width,).
        """
        import torch

        tile_rows, tile_columns, rows, columns = self._tile_grid(clip)
        width, grid = features.shape[-1], self.grid
        by_row = features[1:].reshape(tile_rows, tile_columns, grid, grid, width).permute(0, 2, 1, 3, 4)
        patches = by_row.reshape(tile_rows * grid, tile_columns * grid, width)
        kept = patches[rows.start : rows.stop, columns.start : columns.stop]
        shrunk = self._shrunk(len(rows), len(columns))
        if shrunk != (len(rows), len(columns)):
            from .towers import resized_grid

            kept = resized_grid(kept, *shrunk)
        newlines = newline.to(features.dtype).expand(shrunk[0], 1, width)
        return torch.cat([features[0], torch.cat([kept, newlines], 1).reshape(-1, width)])

    def _tile_grid(self, clip: Clip) -> tuple[int, int, range, range]:
        """Rows and columns of tiles, and the rows and columns of their patches that are not padding."""
        height, width = clip.size
        assert height > 0 and width > 0, f"clip {clip.row} ({clip.path}): the size of its frames is not known"
        rows, columns = grid_shape(height, width, self.pinpoints, self.side)
        return rows, columns, *kept_patches(height, width, rows * self.grid, columns * self.grid)

    def _shrunk(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of a grid of patches after it was shrunk."""
        if not self.most_tiles:
            return rows, columns
        ratio = math.sqrt(rows * columns / (self.most_tiles * self.grid**2))
        return (int(rows // ratio), int(columns // ratio)) if ratio > _SHRINK_FROM else (rows, columns)


def most_tiles(aspect_ratio: str) -> int:
    """The number in `vision_aspect_ratio` of config.json, for example 9 in `anyres_max_9`.

    Raises:
        UsageError: the entry has no such number.
    """
    prefix, _, number = aspect_ratio.rpartition("_")
    if prefix != "anyres_max" or not number.isdecimal() or int(number) < 1:
        raise UsageError(f"vision_aspect_ratio {aspect_ratio!r} is not supported; set anyres_max_9, the published one")
    return int(number)
