"""Whether a file is an image or a video by its first bytes: names of files may be wrong."""

from __future__ import annotations

_IMAGES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*")
_VIDEOS = (b"\x1a\x45\xdf\xa3", b"FLV", b"\x30\x26\xb2\x75", b"\0\0\1\xba", b"\0\0\1\xb3")
"""Matroska, Flash video, ASF, and MPEG program and video streams."""
_RIFF = {b"WEBP": "image", b"AVI ": "video"}
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
_IMAGE_BRANDS = (b"avif", b"avis")
_MOTION_JPEG = (".mjpeg", ".mjpg")
"""A stream of JPEGs without a container begins as a single JPEG does."""


def file_kind(path: str, name: str) -> str:
    """`image` or `video` by the content of a file; empty if that is unknown. Animated images are images here.

    name: of the file; `path` is another one if it was downloaded.

    Raises:
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        start = file.read(16)
    if start.startswith(_IMAGES):
        return "" if name.lower().endswith(_MOTION_JPEG) else "image"
    if start.startswith(b"RIFF"):
        return _RIFF.get(start[8:12], "")
    if start[4:8] in _MP4_BOXES:
        return "image" if start[8:12] in _IMAGE_BRANDS else "video"
    return "video" if start.startswith(_VIDEOS) else ""
