"""The identity of a clip's file: whether two rows, or two runs, have the same clip. Nothing is decoded.

A local file is identified by its size and a digest of its content: of all of it up to 1 MiB, of pieces that are spread
over it otherwise. So a file may be moved, renamed or copied. A URL is identified by its text: nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...clips.sampling import FrameSampling
from .options import Visuals


def file_identity(path: str) -> str:
    """The identity of the file of a row, as text.

    Raises:
        OSError, ValueError: there is no file, or it can't be read. The decoder reports it better.
    """
    raise NotImplementedError


def clip_identity(path: str, visuals: Visuals, sampling: FrameSampling, short_side: int) -> Mapping[str, Any]:
    """What an answer about a clip depends on besides the text: the file, which frames of it, and how they are sent.

    Raises:
        OSError, ValueError: as `file_identity`.
    """
    raise NotImplementedError
