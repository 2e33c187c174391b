"""Check whether a video file is shorter than its own structure says. Reads the sizes of the outermost parts only.

MP4 and MOV, Matroska and WebM, AVI, and MPEG transport streams can be checked. Other formats do not record their
length. Knows nothing about frames and decoders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_MP4_BOXES = {b"ftyp", b"styp", b"sidx", b"free", b"skip", b"wide", b"uuid", b"moov", b"moof", b"mdat"}
_MP4_VIDEO_BOXES = {b"moov", b"moof", b"mdat"}
"""If one of these is incomplete, frames are missing."""
_EBML_HEADER, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_RIFF_SLACK = 8
"""Some writers include the eight bytes of the chunk's own header in its size."""
_RIFF_UNKNOWN = (0, 0xFFFFFFFF)
"""Sizes in files that were written to a stream."""
_TS_SYNC = b"\x47"
_TS_PACKETS = ((188, 0), (192, 4))
"""Bytes of a packet, and the offset of the sync byte in it: for broadcast, and for discs."""
_TS_CHECKED_PACKETS = 5
"""A file is a transport stream if this many packets have the sync byte."""


def is_incomplete(path: str) -> bool:
    """Whether the file ends before the position at which its own structure ends. False if that is unknown."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(1024)
        if start[4:8] in _MP4_BOXES:
            return any(name in _MP4_VIDEO_BOXES and end > size for name, end in _mp4_boxes(file, size))
        if start.startswith(_EBML_HEADER):
            return _segment_end(start) > size
        if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
            return any(end > size + _RIFF_SLACK for end in _riff_chunk_ends(file, size))
    for length, offset in _TS_PACKETS:
        if start[offset::length][:_TS_CHECKED_PACKETS] == _TS_SYNC * _TS_CHECKED_PACKETS:
            return size % length > 0
    return False


def _mp4_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Name and end position of each outermost box."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # the length follows in 8 bytes
            length = int.from_bytes(head[8:16], "big")
        if name not in _MP4_BOXES and not name.isalnum():
            return  # not a box: other bytes were appended to the file
        if length < 8:  # 0: the box ends where the file ends, so its length is unknown
            return
        position += length
        yield name, position


def _segment_end(start: bytes) -> int:
    """The end position of a Matroska file's segment; 0 if unknown."""
    position = len(_EBML_HEADER)
    header, width = _ebml_size(start, position)
    position += width + header
    if start[position : position + len(_SEGMENT)] != _SEGMENT:
        return 0
    position += len(_SEGMENT)
    length, width = _ebml_size(start, position)
    is_unknown = length == (1 << 7 * width) - 1  # all bits set: the file was written to a stream
    return 0 if is_unknown else position + width + length


def _ebml_size(data: bytes, position: int) -> tuple[int, int]:
    """A number of variable width in EBML, and its width in bytes; zeros if there is none."""
    first = data[position] if position < len(data) else 0
    width = 9 - first.bit_length()
    if width > 8 or position + width > len(data):
        return 0, 0
    value = int.from_bytes(data[position : position + width], "big")
    return value & ((1 << 7 * width) - 1), width


def _riff_chunk_ends(file: BinaryIO, size: int) -> Iterator[int]:
    """The end positions of an AVI file's outermost chunks. A large file has several."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in _RIFF_UNKNOWN:
            return
        position += 8 + length + length % 2
        yield position
