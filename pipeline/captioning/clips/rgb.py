"""Convert a decoded image of any mode to upright RGB with 8 bits for each channel. Knows nothing about files.

- Alpha and transparent colours: the image is placed on white, as in qwen-vl-utils. Dropping alpha would show colours
  that no viewer shows.
- 16-bit channels keep their high byte (of 12 stored bits, the upper 8), as Pillow does for RGB.
- 32-bit numbers have no fixed white. The smallest of 1 (floats only), 255 and 65535 that no value exceeds is white; if
  values are negative or larger, the smallest value is black and the largest white.
- CMYK and Lab: by the colour profile of the image, else by the formula of Pillow. Profiles of RGB and grey images are
  not applied, because the published image processors do not apply them.
"""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import ExifTags, Image, ImageCms

logger = logging.getLogger(__name__)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By the value of the EXIF tag."""
_BITS_PER_SAMPLE = 258
"""Tag of TIFF."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """The present frame of an image as RGB, rotated and mirrored as its EXIF orientation says.

    Raises:
        ValueError: an image of floats has no finite value. Exception: any error of Pillow for a broken file.
    """
    image.load()
    transpose = _TRANSPOSE.get(_orientation(image))
    rgb = _rgb(image)
    return rgb if transpose is None else rgb.transpose(transpose)


def _orientation(image: Image.Image) -> int:
    """The value of the EXIF tag; 1 if there is none. Pillow rotates TIFF itself and then has no value."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # broken EXIF is no reason to fail: the pixels are complete
        logger.info("EXIF data can't be read, so the image is not rotated: %s", error)
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("CMYK", "LAB"):
        return _by_profile(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_grey(image)).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _by_profile(image: Image.Image) -> Image.Image:
    stored = image.info.get("icc_profile")
    srgb = ImageCms.createProfile("sRGB")
    if image.mode == "LAB":
        converted = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb, outputMode="RGB")
        assert converted is not None, "only a conversion in place returns nothing"
        return converted
    if stored:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(stored))
            return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB") or image.convert("RGB")
        except (ImageCms.PyCMSError, OSError) as error:
            logger.info("the colour profile can't be used: %s", error)
    return image.convert("RGB")


def _grey(image: Image.Image) -> np.ndarray:
    """Grey values of 16 or 32 bits as uint8 (height, width)."""
    if image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        bits = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
        return (np.asarray(image).astype(np.uint16) >> (bits - 8)).astype(np.uint8)
    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("the image has no finite value")
    low, high = float(finite.min()), float(finite.max())
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    whites = [white for white in (1, 255, 65535)[image.mode != "F" :] if high <= white]
    if low >= 0 and whites:
        low, high = 0.0, float(whites[0])
    return np.rint((values - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)
