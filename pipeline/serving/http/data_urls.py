"""Data URLs: their type, and their bytes in pieces. Writes nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

JPEG_FRAMES = "video/jpeg"
"""The type of several JPEGs, divided by commas, that are the frames of one video; a form of vLLM."""
_PIECE = 2**20  # a multiple of 4, so that each piece can be decoded by itself
_MOST_HEADER = 256


@dataclass(frozen=True)
class DataUrl:
    """A data URL. type: for example `image/jpeg`, in lower case. begin: position of the first character of base64."""

    type: str
    begin: int


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def parse_data_url(url: str) -> DataUrl:
    """The head of a data URL.

    Raises:
        ValueError: it is not one of base64.
    """
    comma = url.find(",", 0, _MOST_HEADER)
    if comma < 0:
        raise ValueError("is not a data URL: it has no comma after the type")
    kind, *parameters = url[len("data:") : comma].lower().split(";")
    if not parameters or parameters[-1].strip() != "base64":
        raise ValueError("is a data URL without base64; send data:TYPE;base64,…")
    return DataUrl(kind.strip(), comma + 1)


def decoded_pieces(url: str, begin: int, end: int) -> Iterator[bytes]:
    """The bytes that url[begin:end] encodes in base64 with padding, in pieces.

    Raises:
        ValueError: it is empty, or not base64.
    """
    if begin == end:
        raise ValueError("is empty")
    if (end - begin) % 4:
        raise ValueError("is not base64: its length is not a multiple of 4; is it cut off, or without padding?")
    for start in range(begin, end, _PIECE):
        piece = url[start : min(start + _PIECE, end)]
        try:
            if start + _PIECE < end and piece.endswith("="):
                raise ValueError("padding before the end")
            yield base64.b64decode(piece, validate=True)
        except ValueError as error:  # binascii.Error is one
            raise ValueError(f"is not base64: {error}") from None


def frame_count(url: str, begin: int) -> int:
    """Number of frames of a `video/jpeg` URL."""
    return url.count(",", begin) + 1


def frame_bounds(url: str, begin: int) -> Iterator[tuple[int, int]]:
    """Begin and end of the frames of a `video/jpeg` URL."""
    while True:
        comma = url.find(",", begin)
        yield begin, len(url) if comma < 0 else comma
        if comma < 0:
            return
        begin = comma + 1
