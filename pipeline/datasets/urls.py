"""The names of the files at paths of clips, of which some are URLs. Opens nothing."""

from __future__ import annotations

import os
import re

_HTTP = re.compile(r"https?://", re.IGNORECASE)


def file_part(path: str) -> str:
    """A path without what does not belong to the name of the file: query and fragment of an http(s) URL."""
    return re.split(r"[?#]", path, maxsplit=1)[0] if _HTTP.match(path) else path


def stem(path: str) -> str:
    """The name of the file at a path, without folders and suffix."""
    return os.path.splitext(os.path.basename(file_part(path)))[0]
