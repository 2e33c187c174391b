"""The names of the files at paths of clips, of which some are URLs. Opens nothing."""

from __future__ import annotations

import os

from pipeline.captioning.clips.media import file_name


def stem(path: str) -> str:
    """The name of the file at a path, without folders and suffix.

    Escapes in URLs are decoded, so the result may contain any character.
    """
    return os.path.splitext(os.path.basename(file_name(path)))[0]
