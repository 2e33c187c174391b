"""Paths of clips, of which some are URLs. Nothing here or in the other table commands opens a URL."""

from __future__ import annotations

import os
import re

from pipeline.captioning.clips.decode import IMAGE_SUFFIXES

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HTTP = re.compile(r"https?://", re.IGNORECASE)


def is_url(path: str) -> bool:
    """Whether a path is a URL of any scheme, such as `https://host/a.mp4` or `s3://bucket/a.mp4`."""
    return _URL.match(path) is not None


def file_part(path: str) -> str:
    """A path without what does not belong to the name of the file: query and fragment of an http(s) URL."""
    return re.split(r"[?#]", path, maxsplit=1)[0] if _HTTP.match(path) else path


def is_image(path: str) -> bool:
    """Whether a path names a still image, by its suffix."""
    return file_part(path).lower().endswith(IMAGE_SUFFIXES)


def stem(path: str) -> str:
    """The name of the file at a path, without folders and suffix."""
    return os.path.splitext(os.path.basename(file_part(path)))[0]
