"""The names of the files at paths of clips, of which some are URLs. Opens nothing."""

from __future__ import annotations

import os

from pipeline.captioning.clips.downloads.urls import is_url, name_in


def file_part(path: str) -> str:
    """A path without what does not belong to the name of the file: of a URL, host, query, fragment and version.

    Escapes in URLs are decoded, so the result may contain any character.
    """
    return name_in(path) if is_url(path) else path


def stem(path: str) -> str:
    """The name of the file at a path, without folders and suffix."""
    return os.path.splitext(os.path.basename(file_part(path)))[0]
