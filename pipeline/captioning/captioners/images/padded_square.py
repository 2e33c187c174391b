"""Resizes the longer side and pads to a square: Janus.

Equal to transformers' JanusImageProcessor, except for frames whose longer side it resizes to one pixel less than the
size: it truncates `longest * (size / longest)`, whose floating point product can be below the size (with size 384, for
170 of the lengths up to 4,000, for example 588 and 710). Its result then has 383x383 pixels, which the vision tower
refuses. Here the longer side always has the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .base import ImageTransform
from .preprocessor_file import PreprocessorFile
from .resizing import resized


@dataclass(frozen=True, kw_only=True)
class PaddedSquare(ImageTransform):
    """Resize the longer side, then pad the shorter one on both sides with the colour of the mean.

    size: side of the square, in pixels.
    min_size: the shorter side is never resized below this, in pixels; the aspect ratio then changes.
    """

    size: int
    min_size: int = 14

    @classmethod
    def _read(cls, file: PreprocessorFile) -> dict[str, Any]:
        return {"size": file.square("size"), "min_size": file.whole("min_size", cls.min_size)}

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """See ImageTransform; returns (frames, size, size, 3)."""
        return np.stack([self._padded(image) for image in images])

    def _padded(self, image: Image.Image) -> np.ndarray:
        width, height = self._resized_size(*image.size)
        square = np.empty((self.size, self.size, 3), np.uint8)
        square[:] = self.background
        top, left = (self.size - height) // 2, (self.size - width) // 2
        square[top : top + height, left : left + width] = np.asarray(resized(image, (width, height), self.resample))
        return square

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        longest = max(width, height)
        scale = self.size / longest
        sides = [self.size if side == longest else max(int(side * scale), self.min_size) for side in (width, height)]
        return sides[0], sides[1]
