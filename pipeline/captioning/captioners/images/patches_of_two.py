"""Frames of any resolution for Qwen2-VL and Qwen2.5-VL, and their order as patches of two frames.

Equal to transformers' Qwen2VLImageProcessor, except for a file that gives the limits for the pixels only as
`shortest_edge` and `longest_edge` of `size`: they apply here, while that class uses its defaults instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ...process.errors import UsageError
from .base import ImageTransform
from .preprocessor_file import PreprocessorFile
from .resizing import resized

MAX_ASPECT_RATIO = 200


@dataclass(frozen=True, kw_only=True)
class PatchesOfTwo(ImageTransform):
    """Resize to multiples of `patch_size * merge_size`, with the number of pixels of a frame within limits.

    min_pixels, max_pixels: limits for the pixels of a resized frame.
    patch_size: side of a patch of the vision tower, in pixels.
    merge_size: the model merges merge_size x merge_size patches into one visual token.
    temporal_patch_size: number of frames in a patch.
    """

    # The limits for the pixels of an image and of a frame differ in published checkpoints.
    shared_entries: ClassVar[tuple[str, ...]] = ("image_mean", "image_std")

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2

    def __post_init__(self) -> None:
        if self.min_pixels > self.max_pixels:
            raise UsageError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")

    @classmethod
    def _read(cls, file: PreprocessorFile) -> dict[str, Any]:
        return {
            "min_pixels": _limit(file, "min_pixels", "shortest_edge", cls.min_pixels),
            "max_pixels": _limit(file, "max_pixels", "longest_edge", cls.max_pixels),
            "patch_size": file.whole("patch_size", cls.patch_size),
            "merge_size": file.whole("merge_size", cls.merge_size),
            "temporal_patch_size": file.whole("temporal_patch_size", cls.temporal_patch_size),
        }

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """See ImageTransform; returns (frames, height, width, 3) with the size of `resized_size`."""
        height, width = self.resized_size(images[0].height, images[0].width)
        return np.stack([np.asarray(resized(image, (width, height), self.resample)) for image in images])

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing a frame of this height and width, in pixels.

        Raises:
            ValueError: the aspect ratio is more than MAX_ASPECT_RATIO.
        """
        if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
            raise ValueError(
                f"a frame of {width}x{height} pixels has an aspect ratio of more than {MAX_ASPECT_RATIO}:1"
            )
        unit = self.patch_size * self.merge_size
        rows, columns = round(height / unit), round(width / unit)
        if rows * columns * unit**2 > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows = max(1, math.floor(height / shrink / unit))
            columns = max(1, math.floor(width / shrink / unit))
        elif rows * columns * unit**2 < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            rows, columns = math.ceil(height * grow / unit), math.ceil(width * grow / unit)
        return rows * unit, columns * unit

    def patch_rows(self, frames: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        """The frames as one row for each patch, in the order of the vision tower, and the grid of patches.

        Patches that are merged into one visual token are neighbours. A row has the axes channel, frame, row, column.
        A last frame without a partner is repeated.

        frames: (T, height, width, 3), all sampled frames of a clip, any dtype.
        Returns: (t * h * w, 3 * temporal_patch_size * patch_size**2) of the same dtype, and the grid (t, h, w), where h
            and w are not yet divided by merge_size.
        """
        patch, merge, pair = self.patch_size, self.merge_size, self.temporal_patch_size
        missing = -len(frames) % pair
        frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
        t, h, w = len(frames) // pair, frames.shape[1] // patch, frames.shape[2] // patch
        split = frames.reshape(t, pair, h // merge, merge, patch, w // merge, merge, patch, 3)
        rows = split.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
        return rows.reshape(t * h * w, 3 * pair * patch**2), (t, h, w)

    def row_normalization(self) -> tuple[np.ndarray, np.ndarray]:
        """`mean` and `std` for each column of `patch_rows`, float32 (3 * temporal_patch_size * patch_size**2,)."""
        columns = self.temporal_patch_size * self.patch_size**2
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.repeat(mean, columns), np.repeat(std, columns)


def _limit(file: PreprocessorFile, key: str, edge: str, default: int) -> int:
    size = file.entries.get("size")
    if file.entries.get(key) is None and isinstance(size, dict) and edge in size:
        return PreprocessorFile(file.path, size).whole(edge, default)
    return file.whole(key, default)
