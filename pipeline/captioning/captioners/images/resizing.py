"""Sizes, resizing and cropping of PIL images, shared by the frame transforms."""

from __future__ import annotations

import math

from PIL import Image

MAX_RESIZED_PIXELS = 64 * 2**20
"""Limit for the size of a resized frame; only frames with extreme aspect ratios exceed it."""


def short_edge_size(width: int, height: int, short_edge: int) -> tuple[int, int]:
    """(width, height) after scaling the shorter side to `short_edge`; the longer side is rounded down."""
    if width <= height:
        return short_edge, int(short_edge * height / width)
    return int(short_edge * width / height), short_edge


def check_resized_size(width: int, height: int, size: tuple[int, int]) -> None:
    """Check that a frame of this width and height may be resized to `size`, a pair of width and height.

    Raises:
        ValueError: the resized frame would exceed MAX_RESIZED_PIXELS.
    """
    if size[0] * size[1] > MAX_RESIZED_PIXELS:
        raise ValueError(
            f"a frame of {width}x{height} pixels would be resized to {size[0]}x{size[1]}, "
            f"more than {MAX_RESIZED_PIXELS // 2**20} megapixels"
        )


def resized(image: Image.Image, size: tuple[int, int], resample: int = Image.Resampling.BICUBIC) -> Image.Image:
    """The image at (width, height) pixels. resample: PIL's number of the filter."""
    # Without this check PIL would copy an image that already has the size.
    return image if image.size == size else image.resize(size, Image.Resampling(resample))


def fitted_size(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """(width, height) of the largest image with this aspect ratio that fits into the limits."""
    scale_width, scale_height = max_width / width, max_height / height
    if scale_width < scale_height:
        return max_width, min(math.ceil(height * scale_width), max_height)
    return min(math.ceil(width * scale_height), max_width), max_height


def center_cropped(image: Image.Image, width: int, height: int) -> Image.Image:
    """The centre of the image; a side that is too short is padded with black."""
    left = (image.width - width) // 2
    top = (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
