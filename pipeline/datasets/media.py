"""Which files of a folder are videos and which are still images: by suffix, and by content where a suffix has both."""

from __future__ import annotations

import warnings

from PIL import Image

from pipeline.captioning.clips.decode_pil import is_animation
from pipeline.captioning.clips.media import IMAGE_SUFFIXES

VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
)  # fmt: skip
KINDS = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
ANIMATED_SUFFIXES = (".png", ".webp")
"""Suffixes of still images that animations have too. Animations are clips."""


def is_animated(path: str) -> bool:
    """Whether the content of a file is an animated PNG, an animated WebP, or a GIF, which always is a clip.

    False for a file that can't be read: captioning reports what is wrong with it.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            with Image.open(path, formats=("PNG", "WEBP", "GIF")) as image:
                return is_animation(image)
    except Exception:  # Pillow raises errors of many types
        return False
