"""Resizes straight to a fixed height and width: SigLIP (LLaVA-Video, frames of LLaVA-OneVision) and BLIP-2.

Equal to transformers' SiglipImageProcessor and BlipImageProcessor with the same Pillow. The two passes of a resize are
rounded to uint8 one after the other, so their order matters where the aspect ratio changes. Before version 13, Pillow
resizes horizontally first; since then, vertically first if the height shrinks and the width does not
(https://github.com/python-pillow/Pillow/pull/9549). This changes up to 7 % of the values, by up to 7 of 255.
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
class Square(ImageTransform):
    """Resize without keeping the aspect ratio.

    size: (height, width) in pixels.
    vertical_first: the order of Pillow 13 with every Pillow. The recorded outputs of the public LLaVA-Video have it.
    """

    size: tuple[int, int]
    vertical_first: bool = False

    @classmethod
    def _read(cls, file: PreprocessorFile) -> dict[str, Any]:
        return {"size": file.rectangle("size")}

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """See ImageTransform; returns (frames, *size, 3)."""
        return np.stack([self._resized(image) for image in images])

    def _resized(self, image: Image.Image) -> np.ndarray:
        height, width = self.size
        if self.vertical_first and height < image.height and width >= image.width:
            image = resized(image, (image.width, height), self.resample)
        return np.asarray(resized(image, (width, height), self.resample))
