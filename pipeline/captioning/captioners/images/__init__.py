"""Frame transforms: the image preprocessing of all model families, on numpy and PIL.

They run in the decoding processes, so nothing here imports a framework or transformers. A transform takes the distinct
frames of a clip and returns the uint8 values that the family's slow image processor (transformers 4.55) has before it
rescales and normalises; the device does that. Knows nothing about prompts and models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import ImageTransform
from .crop import Crop
from .internvl import InternVL
from .onevision_square import OnevisionSquare
from .padded_square import PaddedSquare
from .patches_of_two import PatchesOfTwo
from .square import Square
from .tiles import OnevisionTiles, Tiles

KINDS: dict[str, type[ImageTransform]] = {
    "crop": Crop,
    "square": Square,
    "tiles": Tiles,
    "onevision_tiles": OnevisionTiles,
    "onevision_square": OnevisionSquare,
    "patches_of_two": PatchesOfTwo,
    "internvl": InternVL,
    "padded_square": PaddedSquare,
}


def from_folder(folder: Path, kind: str, **overrides: Any) -> ImageTransform:
    """The transform of a checkpoint folder; `kind` is one of KINDS. See `ImageTransform.from_folder`."""
    return KINDS[kind].from_folder(folder, **overrides)
