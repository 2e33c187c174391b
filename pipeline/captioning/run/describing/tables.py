"""The table of segments of a description: made by rank 0 before the first run, and used again by later calls."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...clips.time_range import TimeRange
from ...journal.folder import journal_folder, read_contents, remove_journals
from ...long_videos.segmentation.division import EqualParts, Scenes
from ...long_videos.segmentation.many import divide_many
from ...meta.files import atomic_write
from ...meta.made_table import MadeTable
from ...meta.names import END_COLUMN, PATH_COLUMN, START_COLUMN
from ...meta.table import MetaTable
from ...process.errors import RunError, UsageError
from ..plan import fingerprint_difference
from .files import Inputs, Outputs

logger = logging.getLogger(__name__)

SEGMENT = "segment"
"""The column with the number of a segment within its video, from 0."""


@dataclass(frozen=True)
class Segments:
    """The segments of all videos.

    of_videos: for each video its segments, in order of time. rows: for each segment row, (video, segment) numbers.
    messages: what is wrong with the file or the parts of a video, by its number. Videos without any are not in it.
    """

    of_videos: tuple[tuple[TimeRange, ...], ...]
    rows: tuple[tuple[int, int], ...]
    messages: Mapping[int, tuple[str, ...]]


def check_settings(outputs: Outputs, settings: Mapping[str, str], restart: bool) -> None:
    """Check that the tables in the folder were made with the same settings, or record these.

    restart: move tables of other settings, and of the same, out of the way.

    Raises:
        UsageError: the settings differ.
        RunError: the tables can't be moved, or the settings can't be written.
    """
    folder = outputs.folder
    if restart and outputs.settings.exists():
        backup = folder.with_name(f"{folder.name}.bak")
        shutil.rmtree(backup, ignore_errors=True)
        try:
            folder.rename(backup)
            folder.mkdir()
        except OSError as error:
            raise RunError(f"--restart: {folder} can't be moved to {backup}: {error}") from error
        logger.info("--restart: the earlier tables are in %s", backup)
    found = _read_settings(outputs.settings)
    if found is None:
        with atomic_write(outputs.settings) as temporary:
            temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    difference = fingerprint_difference(found, settings, "in the earlier call")
    if difference:
        raise UsageError(
            f"the tables in {folder} were made with other settings: {'; '.join(difference)}. Give the same arguments "
            "to continue, another --output, or --restart to describe the videos again"
        )


def _read_settings(path: Path) -> dict[str, str] | None:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {error}; give --restart to describe the videos again") from error
    return {str(name): str(value) for name, value in settings.items()} if isinstance(settings, dict) else {}


def make_segments(
    inputs: Inputs, outputs: Outputs, rule: EqualParts | Scenes, workers: int, timeout: float
) -> Segments:
    """Divide the videos, and write the table of segments. Videos that are in the table are not divided again.

    If an interrupted run has captions, which belong to the rows of its table, the table is not changed: videos that
    are not in it are left to the next call.

    workers, timeout: as for `divide_many`.

    Raises:
        UsageError: an interrupted run is about other videos, or about the same in another order.
        RunError: no process can be started, or the table can't be written.
    """
    known = _known_segments(outputs.segments)
    wanted = [
        (video, part) for video, parts in enumerate(inputs.parts) if inputs.paths[video] not in known for part in parts
    ]
    paths = [inputs.paths[video] for video, _ in wanted]
    divided, damaged = divide_many(paths, [part for _, part in wanted], rule, workers, timeout) if wanted else ([], [])
    journal = journal_folder(outputs.captions)
    is_interrupted = any(read_contents(journal).captions.values())
    if damaged:
        logger.warning("%d files are cut off or damaged, and divided up to there: %s", len(damaged), damaged[0])
    found: dict[int, set[TimeRange]] = {}
    problems: dict[int, str] = {}
    for (video, _), segments in zip(wanted, divided, strict=True):
        if isinstance(segments, str):
            problems[video] = segments
        elif is_interrupted:
            problems[video] = "the video was added to an interrupted run; run the same command again to describe it"
        else:
            found.setdefault(video, set()).update(segments)
    of_videos = tuple(
        known.get(path) or tuple(sorted(found.get(video, ()), key=lambda part: (part.start, part.end or 0)))
        for video, path in enumerate(inputs.paths)
    )
    rows = tuple((video, number) for video, parts in enumerate(of_videos) for number in range(len(parts)))
    problems = {video: text for video, text in problems.items() if not of_videos[video]}
    for video, text in problems.items():
        logger.warning("%s: %s", inputs.paths[video], text)
    table = _table(inputs, of_videos, rows)
    if not outputs.segments.exists() or not table.is_same_but_for((), MetaTable.read(outputs.segments, ())):
        if is_interrupted:
            raise UsageError(
                f"the interrupted run in {outputs.folder} is about other videos, or about the same in another order; "
                "give the same videos to continue, another --output, or --restart to describe the videos again"
            )
        remove_journals(journal)  # they have failures only, by the rows of the earlier table
        table.write(outputs.segments, {})
    return Segments(of_videos, rows, {video: (text,) for video, text in problems.items()})


def _known_segments(path: Path) -> dict[str, tuple[TimeRange, ...]]:
    """The segments of each video in the table of an earlier call."""
    if not path.exists():
        return {}
    table = MetaTable.read(path, ())
    known: dict[str, list[TimeRange]] = {}
    for row, video in enumerate(table.paths):
        part = table.range_of(row)
        if part is not None:
            known.setdefault(video, []).append(part)
    return {video: tuple(parts) for video, parts in known.items()}


def _table(
    inputs: Inputs, of_videos: tuple[tuple[TimeRange, ...], ...], rows: tuple[tuple[int, int], ...]
) -> MadeTable:
    cells = [of_videos[video][number].cells for video, number in rows]
    columns = {
        PATH_COLUMN: [inputs.paths[video] for video, _ in rows],
        START_COLUMN: [start for start, _ in cells],
        END_COLUMN: [end for _, end in cells],
        SEGMENT: [str(number) for _, number in rows],
    }
    return MadeTable(columns, {})
