"""Whether a video file is shorter than it says itself. Reads the sizes in the file's outermost structure, no video.

MP4 and MOV, Matroska and WebM, AVI, and MPEG transport streams tell; other formats do not say how long they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_MP4_BOXES = {b"ftyp", b"styp", b"sidx", b"free", b"skip", b"wide", b"uuid", b"moov", b"moof", b"mdat"}
_MP4_VIDEO_BOXES = {b"moov", b"moof", b"mdat"}
"""Those without which frames are missing."""
_EBML_HEADER, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_RIFF_SLACK = 8
"""Some writers count the eight bytes of the chunk's own header."""
_RIFF_UNKNOWN = (0, 0xFFFFFFFF)
"""Sizes in files that were written to a stream."""
_TS_SYNC = b"\x47"
_TS_PACKETS = ((188, 0), (192, 4))
"""Bytes of a packet, and the place of the sync byte in it: broadcast, and discs."""
_TS_LOOK = 5
"""So many packets must begin with the sync byte."""


def is_incomplete(path: str) -> bool:
    """Whether the file ends before the place at which its own structure ends. False where that can't be known."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(1024)
        if start[4:8] in _MP4_BOXES:
            return any(name in _MP4_VIDEO_BOXES and end > size for name, end in _mp4_boxes(file, size))
        if start.startswith(_EBML_HEADER):
            return _segment_end(start) > size
        if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
            return any(end > size + _RIFF_SLACK for end in _riff_chunk_ends(file, size))
    for length, place in _TS_PACKETS:
        if start[place::length][:_TS_LOOK] == _TS_SYNC * _TS_LOOK:
            return size % length > 0
    return False


def _mp4_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """The outermost boxes: name and the place where the box ends."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # the length follows in 8 bytes
            length = int.from_bytes(head[8:16], "big")
        if name not in _MP4_BOXES and not name.isalnum():
            return  # not a box: bytes that somebody appended
        if length < 8:  # 0: to the end of the file, whatever that is
            return
        place += length
        yield name, place


def _segment_end(start: bytes) -> int:
    """Where the segment of a Matroska file ends; 0 if that is not known."""
    place = len(_EBML_HEADER)
    header, width = _ebml_size(start, place)
    place += width + header
    if start[place : place + len(_SEGMENT)] != _SEGMENT:
        return 0
    place += len(_SEGMENT)
    length, width = _ebml_size(start, place)
    is_unknown = length == (1 << 7 * width) - 1  # all bits set: the length of a stream
    return 0 if is_unknown else place + width + length


def _ebml_size(data: bytes, place: int) -> tuple[int, int]:
    """A number of variable width in EBML, and its width in bytes; zeros if there is none."""
    first = data[place] if place < len(data) else 0
    width = 9 - first.bit_length()
    if width > 8 or place + width > len(data):
        return 0, 0
    value = int.from_bytes(data[place : place + width], "big")
    return value & ((1 << 7 * width) - 1), width


def _riff_chunk_ends(file: BinaryIO, size: int) -> Iterator[int]:
    """Where the outermost chunks of an AVI file end; a large one has several."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in _RIFF_UNKNOWN:
            return
        place += 8 + length + length % 2
        yield place
