"""Decodes the clips of entries and writes the page with their frames. Knows nothing about where entries come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...clips.killable import DecoderLimits
from ...clips.sampling import FrameSampling
from ...process.errors import UsageError
from .entries import Entries, Entry
from .filmstrips import make_filmstrips
from .page import write_page

DEFAULT_SAMPLING = FrameSampling("segments", 4)
PICTURES_BYTES = 60 * 10**6
"""Maximum size of all filmstrips together. The page holds them as base64, which takes a third more."""
_FILMSTRIP_BYTES = 200_000
"""Maximum size of one filmstrip."""
_STAGES_WITHOUT_FRAMES = {"path", "download", "decode", "prepare"}
"""Rows that failed in these stages have no frames."""


def check_page_path(page: Path, flag: str) -> None:
    """Check that a page can be written. flag: that names it, for messages.

    Raises:
        UsageError: the suffix is another one, or the folder does not exist.
    """
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{flag} {page} must end in .html")
    if not page.parent.is_dir():
        raise UsageError(f"the folder of {flag}, {page.parent}, does not exist")


def write_pictured_page(
    page: Path,
    table: Path,
    entries: Entries,
    report: Mapping[str, Any],
    sampling: FrameSampling,
    limits: DecoderLimits,
    workers: int,
) -> int:
    """Write the page; returns the number of clips with frames.

    table: its name is the title. report: of the run; may be empty.
    sampling: which frames of each clip are shown. limits, workers: of the decoding processes.

    Raises:
        RunError: the page can't be written.
    """
    clips = list(dict.fromkeys(entry.clip for entry in entries.entries if _may_have_frames(entry)))
    max_bytes = min(_FILMSTRIP_BYTES, PICTURES_BYTES // max(1, len(clips)))
    strips, problems = make_filmstrips(clips, sampling, max_bytes, limits, workers)
    write_page(page, table, entries, strips, problems, report)
    return len(strips)


def _may_have_frames(entry: Entry) -> bool:
    return not any(caption.stage in _STAGES_WITHOUT_FRAMES for caption in entry.captions)
