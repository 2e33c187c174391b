"""Whether a path names a still image or a video, by its suffix. Opens nothing; in the end the content decides."""

from __future__ import annotations

from .downloads.urls import is_url, name_in

IMAGE, VIDEO = "image", "video"
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def names_image(path: str) -> bool:
    """Whether a local path or a URL names a still image. The query and the fragment of a URL do not count."""
    return file_name(path).lower().endswith(IMAGE_SUFFIXES)


def medium_of(path: str) -> str:
    """IMAGE or VIDEO, by the suffix of a path, or of the path of a URL."""
    return IMAGE if names_image(path) else VIDEO


def file_name(path: str) -> str:
    """The part of a local path or a URL that ends with the suffix of the file."""
    return name_in(path) if is_url(path) else path
