"""Tiles of a fixed size for InternVL: one for each frame, or several and a thumbnail.

Equal to transformers' GotOcr2ImageProcessor.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ...process.errors import UsageError
from .base import ImageTransform
from .preprocessor_file import PreprocessorFile
from .resizing import resized
from .tiles import divided

MAX_TILES = 64
"""Limit for the tiles that a user may ask for; 12 is the default of transformers."""


@dataclass(frozen=True, kw_only=True)
class InternVL(ImageTransform):
    """Resize every image to one tile, or to a grid of tiles followed by a thumbnail of the whole image.

    size: (height, width) of a tile, in pixels.
    crop_to_patches: make a grid of tiles of every image. transformers does this for still images, while each frame of a
        video is one tile. So it is not read from the file; it is on if the user asks for tiles (`--max_tiles`).
    min_patches, max_patches: limits for the number of tiles in the grid, without the thumbnail.
    """

    size: tuple[int, int]
    crop_to_patches: bool = False
    min_patches: int = 1
    max_patches: int = 12

    def __post_init__(self) -> None:
        if self.min_patches > self.max_patches:
            raise UsageError(f"min_patches {self.min_patches} is more than max_patches {self.max_patches}")

    @classmethod
    def _read(cls, file: PreprocessorFile) -> dict[str, Any]:
        return {
            "size": file.rectangle("size"),
            "min_patches": file.whole("min_patches", cls.min_patches),
            "max_patches": file.whole("max_patches", cls.max_patches),
        }

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """See ImageTransform; returns (frames, tiles, *size, 3), the thumbnail last."""
        return np.stack([self._tiled(image) for image in images])

    def _tiled(self, image: Image.Image) -> np.ndarray:
        height, width = self.size
        columns, rows = self._grid(image.height, image.width)
        whole = np.asarray(resized(image, (width, height), self.resample))
        if columns * rows == 1:
            return whole[np.newaxis]
        grid = np.asarray(resized(image, (columns * width, rows * height), self.resample))
        return np.concatenate([divided(grid, height, width), whole[np.newaxis]])

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        if not self.crop_to_patches or self.max_patches == 1:
            return 1, 1
        return tile_grid(height, width, self.size, self.min_patches, self.max_patches)


@functools.lru_cache(maxsize=256)
def tile_grid(height: int, width: int, tile: tuple[int, int], minimum: int, maximum: int) -> tuple[int, int]:
    """(columns, rows) of the grid whose aspect ratio is nearest to that of an image.

    Of several grids with the same difference, the largest one is taken whose area is less than twice the image's, or
    the smallest one if there is none.

    height, width: the image's size in pixels. tile: (height, width) of a tile. minimum, maximum: limits for the tiles.
    """
    sides = range(1, maximum + 1)
    grids = [(columns, rows) for columns in sides for rows in sides[: maximum // columns] if columns * rows >= minimum]
    grids.sort(key=lambda grid: grid[0] * grid[1])
    best, difference = (1, 1), float("inf")
    for columns, rows in grids:
        other = abs(width / height - columns / rows)
        large_enough = width * height > 0.5 * tile[0] * tile[1] * columns * rows
        if other < difference or (other == difference and large_enough):
            best, difference = (columns, rows), other
    return best
