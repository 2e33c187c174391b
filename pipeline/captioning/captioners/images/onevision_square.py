"""Pads to a square, then resizes: one of several still images in a prompt of LLaVA-OneVision.

Equal to transformers' LlavaOnevisionImageProcessor for several images, except for those whose longer side is more than
8192 pixels: they are scaled down before they are padded, because their squares would need too much memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .base import ImageTransform
from .preprocessor_file import PreprocessorFile
from .resizing import MAX_RESIZED_PIXELS, fitted_size, resized


@dataclass(frozen=True, kw_only=True)
class OnevisionSquare(ImageTransform):
    """Pad the shorter side on both sides with the colour of the mean, then resize: one tile with the whole image.

    size: side of the tile, in pixels.
    """

    size: int

    @classmethod
    def _read(cls, file: PreprocessorFile) -> dict[str, Any]:
        return {"size": file.square("size")}

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """See ImageTransform; returns (frames, 1, size, size, 3)."""
        return np.stack([self._padded(image)[np.newaxis] for image in images])

    def _padded(self, image: Image.Image) -> np.ndarray:
        side = math.isqrt(MAX_RESIZED_PIXELS)
        if max(image.size) > side:
            image = resized(image, fitted_size(*image.size, side, side), self.resample)
        longest = max(image.size)
        square = Image.new("RGB", (longest, longest), self.background)
        square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
        return np.asarray(resized(square, (self.size, self.size), self.resample))
