"""Read the file of a video, which is sent to a service as it is: its bytes and its MIME type. Decodes nothing.

So a damaged video is found by the service only. Knows nothing about requests.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from .decode import DecodeError
from .incomplete import is_incomplete
from .media import file_name, names_image

MAX_FILE_BYTES = 200 * 10**6
"""Services refuse larger bodies."""
_START_BYTES = 4096
_CONTAINERS = {
    b"FLV": "video/x-flv",
    b"\x30\x26\xb2\x75": "video/x-ms-asf",
    b"\0\0\1\xba": "video/mpeg",
    b"\0\0\1\xb3": "video/mpeg",
    b"RIFF": "video/x-msvideo",
    b"OggS": "video/ogg",
}
"""By their first bytes. Matroska and MP4 need a look at what follows."""
_OLD_QUICKTIME_BOXES = (b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot")
_MP4_BOXES = (b"ftyp", b"styp", b"moof", b"sidx", b"uuid", b"pdin")
_BRANDS = {b"qt": "video/quicktime", b"3gp": "video/3gpp", b"3g2": "video/3gpp2"}
"""By the beginning of the major brand of an MP4 file; others are `video/mp4`."""
_TS_PACKET = 188
_SUFFIXES = {
    ".m2ts": "video/mp2t",
    ".mjpeg": "video/x-motion-jpeg",
    ".mjpg": "video/x-motion-jpeg",
    ".mpeg": "video/mpeg",
    ".mpg": "video/mpeg",
    ".mts": "video/mp2t",
    ".ts": "video/mp2t",
}
"""Of streams, whose content does not begin in one known way."""


@dataclass(frozen=True)
class VideoFile:
    """The file of a video.

    data: its bytes, uint8 (bytes,).
    partial: the file ends before its own structure does.
    """

    data: np.ndarray
    mime_type: str
    partial: bool


def is_video(kind: str, named: str) -> bool:
    """Whether a file is read as a video. What is neither a video nor an image by content and name may be no video.

    kind: of `decode.kind_of`.
    named: the path or URL by whose suffix the file is known.
    """
    return kind == "video" or (not kind and not names_image(named))


def read_video_file(path: str, named: str) -> VideoFile:
    """Read a file for which `is_video` is true.

    Raises:
        DecodeError: it is no video.
        ValueError: it is larger than MAX_FILE_BYTES.
        OSError: it can't be read.
    """
    with open(path, "rb") as file:
        start = file.read(_START_BYTES)
        mime_type = _mime_type(start, named)
        if not mime_type:
            raise DecodeError(["the file is neither a video nor an image, by its content"], is_final=True)
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            limit = f"{MAX_FILE_BYTES / 1e6:,.0f} MB are sent, because services refuse more; use --send images"
            raise ValueError(f"the file has {size / 1e6:,.1f} MB; at most {limit}")
        data = start + file.read(size - len(start))
    return VideoFile(np.frombuffer(data, np.uint8), mime_type, is_incomplete(path))


def _mime_type(start: bytes, named: str) -> str:
    """The MIME type of a video by the first bytes of the file, and of a stream by its suffix; '' for no video.

    start: of a file that is no image.
    """
    if b"\0" not in start:  # a text, whatever its name: nearly every video has a zero byte among its first bytes
        return ""
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if b"webm" in start[:64] else "video/x-matroska"
    if start[4:8] in _MP4_BOXES:
        return next((mime for brand, mime in _BRANDS.items() if start[8:].startswith(brand)), "video/mp4")
    if start[4:8] in _OLD_QUICKTIME_BOXES:
        return "video/quicktime"
    if start[: 3 * _TS_PACKET : _TS_PACKET] == b"GGG":
        return "video/mp2t"
    for begin, mime in _CONTAINERS.items():
        if start.startswith(begin) and (begin != b"RIFF" or start[8:12] == b"AVI "):
            return mime
    return _SUFFIXES.get(os.path.splitext(file_name(named))[1].lower(), "")
