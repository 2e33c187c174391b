"""PLLaVA's frame preprocessing: resizes and crops PIL images for the vision tower.

Runs in the decoding process, so it uses only numpy and PIL. It resizes twice, as the public PLLaVA does: first like its
`PllavaImageProcessor` (limits for the longest and the shortest edge), then like CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...process.errors import UsageError
from ..checkpoint_config import read_settings
from ..images.resizing import center_cropped, check_resized_size, resized, short_edge_size


@dataclass(frozen=True)
class FrameProcessor:
    """Resizes and crops frames to the square input of the vision tower.

    crop_size: CLIP's centre crop, in pixels.
    clip_short_edge: shorter side after CLIP's resize, in pixels.
    short_edge: the first resize enlarges frames whose shorter side is shorter than this, in pixels.
    long_edge: the first resize shrinks frames towards this length of the longer side, in pixels; the shorter side does
        not become shorter than `short_edge`.
    mean, std: CLIP's normalisation of each RGB channel.
    """

    crop_size: int = 336
    clip_short_edge: int = 336
    short_edge: int = 336
    long_edge: int = 640
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_folder(cls, folder: Path, image_size: int) -> FrameProcessor:
        """Read `preprocessor_config.json` of a checkpoint.

        The first resize uses `image_size` as `short_edge`, and 640 or a larger `image_size` as `long_edge`: the public
        code passes 640 itself, independent of `processor_config.json`.

        image_size: height and width of the vision tower's input, in pixels; the file's crop size must be the same.

        Raises:
            UsageError: the file requires preprocessing that PLLaVA does not support.
        """
        path = folder / "preprocessor_config.json"
        config = read_settings(path)
        crop, size = config.get("crop_size", image_size), config.get("size", image_size)
        crop_size = crop if isinstance(crop, int) else crop["height"]
        clip_short_edge = size if isinstance(size, int) else size.get("shortest_edge", crop_size)
        if crop_size != image_size:
            raise UsageError(f"{path}: crop_size {crop_size} is not the vision tower's image_size {image_size}")
        for name, required in (("resample", 3), ("do_center_crop", True), ("do_normalize", True)):
            if config.get(name, required) != required:
                raise UsageError(f"{path}: {name} is {config[name]}, but PLLaVA needs {required}")
        return cls(
            crop_size=crop_size,
            clip_short_edge=clip_short_edge,
            short_edge=image_size,
            long_edge=max(640, image_size),
            mean=tuple(config.get("image_mean", cls.mean)),
            std=tuple(config.get("image_std", cls.std)),
        )

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Resize and crop RGB images; returns uint8 (frames, crop_size, crop_size, 3).

        Raises:
            ValueError: a frame has so extreme an aspect ratio that the first resize would exceed MAX_RESIZED_PIXELS.
        """
        return np.stack([self._crop(image) for image in images])

    def _crop(self, image: Image.Image) -> np.ndarray:
        image = resized(image, self._first_size(*image.size))
        image = resized(image, short_edge_size(*image.size, self.clip_short_edge))
        return np.asarray(center_cropped(image, self.crop_size, self.crop_size))

    def _first_size(self, width: int, height: int) -> tuple[int, int]:
        long, short = max(width, height), min(width, height)
        limit = int(min(self.long_edge, long) / (long / short))
        size = short_edge_size(width, height, max(self.short_edge, min(short, limit)))
        check_resized_size(width, height, size)
        return size
