"""What all frame transforms have in common: the normalisation of their output, and reading them from a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from PIL import Image

from ...process.errors import UsageError
from ..checkpoint_config import read_settings
from .preprocessor_file import PreprocessorFile

_VIDEO_FILES = ("video_preprocessor_config.json", "video_processor_config.json")

Transform = TypeVar("Transform", bound="ImageTransform")


@dataclass(frozen=True, kw_only=True)
class ImageTransform(ABC):
    """A frame transform (see `captioners/base.py`) with the settings of an image processor. Picklable.

    mean, std: normalisation of each RGB channel, after rescaling.
    rescale_factor: the uint8 values are multiplied by it before they are normalised.
    resample: PIL's number of the resampling filter.
    shared_entries: entries of `preprocessor_config.json` whose values the file of a video processor must have, too.

    Raises:
        UsageError: values that do not fit together.
    """

    shared_entries: ClassVar[tuple[str, ...]] = ("size", "crop_size", "image_mean", "image_std")

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale_factor: float = 1 / 255
    resample: int = int(Image.Resampling.BICUBIC)

    @classmethod
    def from_folder(cls: type[Transform], folder: Path, **overrides: Any) -> Transform:
        """Read the transform from `preprocessor_config.json` of a checkpoint.

        overrides: fields of the class that replace those of the file.

        Raises:
            UsageError: the file is missing, a value in it can't be used, or values do not fit together; names the file.
        """
        file = PreprocessorFile.read(folder)
        fields = cls._fields(file)
        try:
            return cls(**{**fields, **overrides})
        except UsageError as error:
            raise UsageError(f"{file.path}: {error}") from error

    @classmethod
    def check_video_file(cls, folder: Path) -> None:
        """Check that the file of a video processor, if a checkpoint has one, describes the same transform.

        transformers prepares frames of videos by such a file, this program by `preprocessor_config.json`. Only
        `shared_entries` that both files have are compared.

        Raises:
            UsageError: a value differs; names both files, the entry and its values.
        """
        images = PreprocessorFile.read(folder)
        expected = cls._fields(images)
        for name in _VIDEO_FILES:
            videos = read_settings(folder / name)
            for key in cls.shared_entries:
                own, other = images.entries.get(key), videos.get(key)
                if own is None or other is None:
                    continue
                if cls._fields(PreprocessorFile(folder / name, {**images.entries, key: other})) != expected:
                    raise UsageError(
                        f"{folder / name}: {key} is {other}, but {own} in {images.path}; correct the wrong one, or "
                        f"remove {name}, which is not used"
                    )

    @classmethod
    def _fields(cls, file: PreprocessorFile) -> dict[str, Any]:
        for step in ("do_resize", "do_rescale", "do_normalize"):
            file.require(step, True)
        return {
            "mean": file.channels("image_mean"),
            "std": file.channels("image_std", positive=True),
            "rescale_factor": file.factor("rescale_factor", 1 / 255),
            "resample": file.resample(),
            **cls._read(file),
        }

    @classmethod
    @abstractmethod
    def _read(cls, file: PreprocessorFile) -> dict[str, Any]:
        """The fields that the subclass adds."""

    @abstractmethod
    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Transform RGB images of one size; returns uint8, the first axis is the frame, the last one the channel.

        Raises:
            ValueError: frames of this size can't be transformed.
        """

    @property
    def background(self) -> tuple[int, ...]:
        """The colour of padding, 0 to 255 for each channel: the mean, rounded down. Not all transforms pad with it."""
        return tuple(int(value * 255) for value in self.mean)

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """(pixels * rescale_factor - mean) / std, float32, bit for bit as the image processors compute it.

        For the host; the device computes the same from `mean`, `std` and `rescale_factor`.
        pixels: uint8 (..., 3).
        """
        scaled = (pixels.astype(np.float64) * self.rescale_factor).astype(np.float32)
        result: np.ndarray = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return result
