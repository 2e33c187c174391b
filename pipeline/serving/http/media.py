"""The media of a message as files and URLs that a device process may read. Decodes no image and no video."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ..settings import HttpSettings
from .access import checked_url
from .data_urls import JPEG_FRAMES, decoded_pieces, frame_bounds, frame_count, is_data_url, parse_data_url
from .errors import RequestError
from .frames import kept
from .messages import Kind, Medium
from .spool import QuestionFiles

_SUFFIXES = {
    "image/bmp": ".bmp",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/tiff": ".tiff",
    "image/webp": ".webp",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/x-motion-jpeg": ".mjpeg",
    "video/x-msvideo": ".avi",
}


@dataclass(frozen=True)
class StoredMedia:
    """paths: of files, or URLs; see `messages.Ask.media`.

    are_frames: they are the frames of one video. sent: number of frames that the client sent. rate: of the frames at
        `paths` per second; 0.0 if it is unknown.
    """

    paths: tuple[str, ...]
    are_frames: bool = False
    sent: int = 0
    rate: float = 0.0


async def store_media(
    media: Sequence[Medium], rate: float, files: QuestionFiles, settings: HttpSettings
) -> StoredMedia:
    """Write the media that a message contains, and check the files and URLs that it names.

    Of frames, only those are written that are kept. rate: of frames per second; 0.0 if it is unknown.

    Raises:
        RequestError: a medium is not usable or not allowed; or the spool has no room (503).
    """
    if len(media) > 1 and settings.model.images_are_frames:
        media = [media[index] for index in kept(len(media), 0.0, settings.model.sampling).indices]
    files.reserve(sum(len(medium.url) // 4 * 3 for medium in media if is_data_url(medium.url)))
    return await asyncio.to_thread(_store, media, rate, files, settings) if media else StoredMedia(())


def _store(media: Sequence[Medium], rate: float, files: QuestionFiles, settings: HttpSettings) -> StoredMedia:
    paths: list[str] = []
    for medium in media:
        try:
            if not is_data_url(medium.url):
                paths.append(checked_url(medium.url, settings.access))
                continue
            head = parse_data_url(medium.url)
            _check_type(medium.kind, head.type)
            if head.type == JPEG_FRAMES:  # a video is the only medium of its message
                return _stored_frames(medium.url, head.begin, rate, files, settings)
            pieces = decoded_pieces(medium.url, head.begin, len(medium.url))
            paths.append(str(files.write(pieces, _SUFFIXES.get(head.type, ""))))
        except ValueError as error:
            raise RequestError(f"{medium.path} {error}", medium.path, "invalid_media") from None
    return StoredMedia(tuple(paths))


def _check_type(kind: Kind, given: str) -> None:
    expected = ("image/",) if kind is Kind.IMAGE else ("video/", "image/")  # an animated image is a video
    if not given.startswith(expected):
        raise ValueError(f"has the type {given[:40]!r}; this server takes {' and '.join(f'{e}*' for e in expected)}")


def _stored_frames(url: str, begin: int, rate: float, files: QuestionFiles, settings: HttpSettings) -> StoredMedia:
    count, most = frame_count(url, begin), settings.limits.frames
    if count > most:
        raise ValueError(f"has {count} frames, and this server takes at most {most}")
    chosen = kept(count, rate, settings.model.sampling)
    paths = []
    for number, (first, end) in enumerate(frame_bounds(url, begin), 1):
        if number - 1 not in chosen.indices:
            continue
        try:
            paths.append(str(files.write(decoded_pieces(url, first, end), ".jpg")))
        except ValueError as error:
            raise ValueError(f"frame {number} {error}") from None
    return StoredMedia(tuple(paths), True, count, chosen.rate)
