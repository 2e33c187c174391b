"""Divide many videos at once, in processes that may be killed. Knows nothing about tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ...clips.downloads.urls import is_url
from ...clips.file_processes import ask_processes
from ...clips.time_range import TimeRange
from .division import Divided, Division, EqualParts, Scenes, count_frames, divide

FRAMES_PER_TIMEOUT = 1500
"""Frames that are decoded within the time limit, also on a slow machine: a minute of 25 frames per second."""


def divide_many(
    paths: Sequence[str], parts: Sequence[TimeRange], rule: EqualParts | Scenes, workers: int, timeout: float
) -> tuple[list[tuple[TimeRange, ...] | str], list[str]]:
    """The segments of each row, or its problem; and the files that are cut off or damaged, and divided up to there.

    paths, parts: of each row. workers: number of processes.
    timeout: seconds to read a file; with scenes, as many more for every FRAMES_PER_TIMEOUT frames of it.

    Raises:
        RunError: no process can be started.
    """
    parts_of: dict[str, dict[TimeRange, None]] = defaultdict(dict)
    for path, part in zip(paths, parts, strict=True):
        if not is_url(path):
            parts_of[path][part] = None
    divisions = [Division(path, tuple(wanted), rule) for path, wanted in parts_of.items()]
    divided, problems = _ask(divisions, rule, workers, timeout)
    found: dict[tuple[str, TimeRange], tuple[TimeRange, ...] | str] = {}
    for division in divisions:
        reply = divided.get(division)
        segments = [problems[division]] * len(division.parts) if reply is None else reply.segments
        found |= {(division.path, part): result for part, result in zip(division.parts, segments, strict=True)}
    damaged = [division.path for division, reply in divided.items() if reply.is_partial]
    not_here = "the path is a URL; download the file, and put its path into the table"
    rows = [not_here if is_url(path) else found[path, part] for path, part in zip(paths, parts, strict=True)]
    return rows, damaged


def _ask(
    divisions: Sequence[Division], rule: EqualParts | Scenes, workers: int, timeout: float
) -> tuple[dict[Division, Divided], dict[Division, str]]:
    """Divide files in processes: the answers, and the problems of the other files."""
    if isinstance(rule, EqualParts):
        return ask_processes(divisions, divide, workers, timeout, "files")
    frames, problems = ask_processes(divisions, count_frames, workers, timeout, "lengths")

    def seconds(division: Division) -> float:
        return float(timeout * (1 + frames[division] / FRAMES_PER_TIMEOUT))

    divided, failed = ask_processes(list(frames), divide, workers, timeout, "scenes", seconds)
    return divided, problems | failed
