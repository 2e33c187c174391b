"""Resizes the shorter side and crops the centre: LLaVA-1.5 and LLaVA-NeXT-Video.

Equal to transformers' CLIPImageProcessor and LlavaNextVideoImageProcessor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .base import ImageTransform
from .preprocessor_file import PreprocessorFile
from .resizing import center_cropped, check_resized_size, resized, short_edge_size


@dataclass(frozen=True, kw_only=True)
class Crop(ImageTransform):
    """Resize, then crop the centre; a side shorter than the crop is padded with black.

    size: the shorter side after resizing, or (height, width) without keeping the aspect ratio; in pixels.
    crop_size: (height, width) of the crop, in pixels.
    """

    size: int | tuple[int, int]
    crop_size: tuple[int, int]

    @classmethod
    def _read(cls, file: PreprocessorFile) -> dict[str, Any]:
        file.require("do_center_crop", True)
        if str(file.entries.get("image_processor_type")).startswith("LlavaImageProcessor"):
            file.require("do_pad", False)  # other classes ignore this entry, or mean something else by it
        return {"size": file.edge_or_rectangle("size"), "crop_size": file.rectangle("crop_size")}

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """See ImageTransform; returns (frames, *crop_size, 3).

        Raises:
            ValueError: the aspect ratio is so extreme that a resized frame would exceed MAX_RESIZED_PIXELS.
        """
        return np.stack([self._cropped(image) for image in images])

    def _cropped(self, image: Image.Image) -> np.ndarray:
        if isinstance(self.size, int):
            size = short_edge_size(*image.size, self.size)
            check_resized_size(*image.size, size)
        else:
            size = self.size[1], self.size[0]
        height, width = self.crop_size
        return np.asarray(center_cropped(resized(image, size, self.resample), width, height))
