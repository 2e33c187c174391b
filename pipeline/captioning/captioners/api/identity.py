"""The identity of a clip's file: whether two rows, or two runs, have the same clip. Nothing is decoded.

A local file is identified by its size and a digest of its content: of all of it up to 1 MiB, of pieces that are spread
over it otherwise. So a file may be moved, renamed or copied; a file of the same size that differs only between the
pieces counts as the same. A URL is identified by its text: nothing is fetched, so new content at an old URL counts as
the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from ...clips.decode import DecodeError, check_path, kind_of
from ...clips.downloads.urls import is_url, scheme_of, url_problem
from ...clips.sampling import FrameSampling
from ...clips.time_range import TimeRange
from ...clips.video_file import is_video
from .options import VIDEO, Visuals

_WHOLE_BYTES = 2**20
_PIECES, _PIECE_BYTES = 16, 2**16
_SIGNATURE_PREFIXES = ("x-amz-", "x-goog-")
_SIGNATURES = (
    ({"awsaccesskeyid", "signature"}, {"expires"}),
    ({"googleaccessid", "signature"}, {"expires"}),
    ({"ossaccesskeyid", "signature"}, {"expires", "security-token"}),
    ({"key-pair-id", "signature"}, {"expires", "policy"}),
    (
        {"sig", "sv"},  # Azure
        {"se", "sip", "sks", "skoid", "sktid", "skt", "ske", "skv", "sp", "spr", "sr", "srt", "ss", "st"},
    ),
)
"""Parameters of signed URLs, in lower case, which change whenever a URL is signed again: those by which a kind of
signature is recognised, and further ones. Elsewhere parameters of these names may name the clip."""
_HEAD_BYTES = 2**16
_WEBP_ANIMATION = 0x02
"""In the flags of an extended WebP file."""


def file_identity(path: str) -> str:
    """The identity of the file of a row, as text. A URL's is a digest, which does not show the URL.

    Raises:
        OSError, ValueError: there is no file, or it can't be read. The decoder reports it better.
    """
    if is_url(path):
        return f"url {hashlib.sha256(_unsigned(path).encode(errors='surrogatepass')).hexdigest()}"
    _check(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256()
        if size <= _WHOLE_BYTES:
            digest.update(file.read(_WHOLE_BYTES))
        else:
            for number in range(_PIECES):
                file.seek(number * (size - _PIECE_BYTES) // (_PIECES - 1))
                digest.update(file.read(_PIECE_BYTES))
    return f"file {size} {digest.hexdigest()}"


def clip_identity(
    path: str, visuals: Visuals, sampling: FrameSampling, short_side: int, part: TimeRange | None = None
) -> Mapping[str, Any]:
    """What an answer about a clip depends on besides the text: the file, which frames of it, and how they are sent.

    A still image has one frame and is always sent as an image, so its identity contains no sampling, and that of a
    video file which is sent as it is contains nothing about frames. The content behind a URL is not known, so
    everything that may count for it is contained.

    part: of the file, if the clip is not the whole file.

    Raises:
        OSError, ValueError: as `file_identity`.
    """
    identity: dict[str, Any] = {"file": file_identity(path)}
    if part is not None:
        identity["range"] = part.to_json()
    frames = {
        "short_side": short_side,
        "max_side": visuals.max_side,
        "quality": visuals.quality,
        "detail": visuals.detail,
    }
    video = {"video_options": dict(visuals.video_options)} if visuals.send == VIDEO else {}
    if is_url(path):
        return identity | frames | video | {"sampling": str(sampling)}
    kind = _kind(path)
    if visuals.send == VIDEO and is_video(kind, path):
        return identity | video
    if kind == "image" and _is_still(path):
        return identity | frames
    return identity | frames | {"sampling": str(sampling)}


def _check(path: str) -> None:
    """Check that a path names a regular file, as the decoder does: a pipe or a device would block.

    Raises:
        ValueError: it does not.
    """
    try:
        check_path(path)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _kind(path: str) -> str:
    """As `decode.kind_of`.

    Raises:
        ValueError: a playlist.
    """
    try:
        return kind_of(path, path)
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _is_still(path: str) -> bool:
    """Whether an image file certainly has one frame. If that is not clear, it counts as an animation."""
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"GIF"):
        return False
    if head.startswith(b"\x89PNG"):  # an animated one says so before its first pixels
        before_pixels, pixels, _ = head.partition(b"IDAT")
        return bool(pixels) and b"acTL" not in before_pixels
    if head.startswith(b"RIFF"):
        form, flags = head[12:16], head[20:21]
        return form in (b"VP8 ", b"VP8L") or (form == b"VP8X" and bool(flags) and not flags[0] & _WEBP_ANIMATION)
    return True


def _unsigned(url: str) -> str:
    """A URL without user, password, fragment, and the parameters of a signature.

    Raises:
        ValueError: not a URL that can be fetched.
    """
    problem = url_problem(url)
    if problem:
        raise ValueError(problem)
    if scheme_of(url) == "s3":  # a key may contain any character
        return f"s3{url[len('s3') :]}"
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    assignments = [(unquote(part.partition("=")[0]).lower(), part) for part in parts.query.split("&") if part]
    names = {name for name, _ in assignments}
    signatures: set[str] = set()
    for certain, further in _SIGNATURES:
        if certain <= names:
            signatures |= certain | further
    kept = [part for name, part in assignments if name not in signatures and not name.startswith(_SIGNATURE_PREFIXES)]
    return f"{parts.scheme}://{host}{parts.path}?{'&'.join(kept)}"
