"""Tiles by aspect ratio for LLaVA-1.6 (llava_next) and still images of its successors, and their arithmetic.

The transforms are equal to transformers' LlavaNextImageProcessor and LlavaOnevisionImageProcessor, except for frames of
more than 100:1: where one is resized to 1 or 3 rows, these classes take the rows for channels. `best_resolution`,
`grid_shape` and `kept_patches` give the numbers that the models use to remove the padding from the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ...process.errors import UsageError
from .base import ImageTransform
from .preprocessor_file import PreprocessorFile
from .resizing import fitted_size, resized

Resolutions = tuple[tuple[int, int], ...]

DEFAULT_PINPOINTS: Resolutions = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
ONEVISION_PINPOINTS: Resolutions = tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7))


@dataclass(frozen=True, kw_only=True)
class Tiles(ImageTransform):
    """The whole image as one tile, followed by the tiles of the image at its best resolution.

    For the latter the image is resized with its aspect ratio kept, padded with black to the resolution, and divided.

    size: side of a tile, in pixels.
    image_grid_pinpoints: the possible resolutions as (height, width), in pixels, multiples of `size`.
    """

    size: int
    image_grid_pinpoints: Resolutions = DEFAULT_PINPOINTS

    def __post_init__(self) -> None:
        for height, width in self.image_grid_pinpoints:
            if height % self.size or width % self.size:
                raise UsageError(f"image_grid_pinpoints {height}x{width} is no multiple of the tile size {self.size}")

    @classmethod
    def _read(cls, file: PreprocessorFile) -> dict[str, Any]:
        file.require("do_center_crop", True)
        size = file.square("size")
        if file.square("crop_size") != size:
            file.refuse("crop_size", f"the size of a tile, {size}")
        return {
            "size": size,
            "image_grid_pinpoints": file.resolutions("image_grid_pinpoints", cls.image_grid_pinpoints),
        }

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """See ImageTransform; returns (frames, 1 + rows * columns, size, size, 3)."""
        return np.stack([self._tiled(image) for image in images])

    def _tiled(self, image: Image.Image) -> np.ndarray:
        whole = np.asarray(resized(image, (self.size, self.size), self.resample))
        height, width = best_resolution(image.height, image.width, self.image_grid_pinpoints)
        inner = resized(image, fitted_size(image.width, image.height, width, height), self.resample)
        padded = np.zeros((height, width, 3), np.uint8)
        top, left = (height - inner.height) // 2, (width - inner.width) // 2
        padded[top : top + inner.height, left : left + inner.width] = np.asarray(inner)
        return np.concatenate([whole[np.newaxis], divided(padded, self.size, self.size)])


@dataclass(frozen=True, kw_only=True)
class OnevisionTiles(Tiles):
    """The tiles of LLaVA-OneVision: without the entries of a crop, and with more resolutions by default."""

    image_grid_pinpoints: Resolutions = ONEVISION_PINPOINTS

    @classmethod
    def _read(cls, file: PreprocessorFile) -> dict[str, Any]:
        return {
            "size": file.square("size"),
            "image_grid_pinpoints": file.resolutions("image_grid_pinpoints", cls.image_grid_pinpoints),
        }


def best_resolution(height: int, width: int, pinpoints: Resolutions) -> tuple[int, int]:
    """The (height, width) of `pinpoints` that keeps most pixels of an image, and of these wastes least.

    height, width: size of the image in pixels.
    """

    def rank(resolution: tuple[int, int]) -> tuple[int, int]:
        scale = min(resolution[1] / width, resolution[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - resolution[0] * resolution[1]

    return max(pinpoints, key=rank)


def grid_shape(height: int, width: int, pinpoints: Resolutions, size: int) -> tuple[int, int]:
    """(rows, columns) of tiles of `size` pixels at the best resolution of an image of this height and width."""
    best = best_resolution(height, width, pinpoints)
    return best[0] // size, best[1] // size


def kept_patches(height: int, width: int, rows: int, columns: int) -> tuple[range, range]:
    """The rows and columns of patches that remain when those of the padding are removed.

    height, width: size of the image in pixels. rows, columns: patches of the vision tower in all tiles together, for
    example 2 * 24 and 1 * 24. The same arithmetic on patches as in transformers' `unpad_image`.
    """
    if width / height > columns / rows:
        return _centered(rows, int(round(height * (columns / width), 7))), range(columns)
    return range(rows), _centered(columns, int(round(width * (rows / height), 7)))


def divided(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(tiles, height, width, 3): the tiles of an image (rows * height, columns * width, 3), row by row."""
    rows, columns = image.shape[0] // height, image.shape[1] // width
    grid = image.reshape(rows, height, columns, width, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * columns, height, width, 3)


def _centered(total: int, inner: int) -> range:
    padding = (total - inner) // 2
    return range(padding, total - padding)
