"""The table of segments of a description: made by rank 0 before the first run, and used again by later calls."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...clips.time_range import TimeRange
from ...journal.folder import journal_folder, read_contents, remove_journals
from ...long_videos.segmentation.division import EqualParts, Scenes
from ...meta.files import atomic_write
from ...meta.made_table import MadeTable
from ...meta.names import END_COLUMN, PATH_COLUMN, SEGMENT_COLUMN, START_COLUMN, TEXT_COLUMN
from ...meta.table import MetaTable
from ...process.errors import RunError, UsageError
from ..plan import fingerprint_difference
from ..summaries.settings import SUMMARY, TITLE
from .dividing import divide_blocks
from .files import Inputs, Outputs
from .records import VideoRecord, file_state, read_records, write_records

logger = logging.getLogger(__name__)

RULE = "segments"
"""The setting that says how videos are divided."""


@dataclass(frozen=True)
class Segments:
    """The segments of all videos.

    of_videos: for each video its segments, in order of time. rows: for each segment row, (video, segment) numbers; the
        table has further rows after these, of videos that are no inputs of this call.
    messages: by the number of a video, everything that is wrong with its file or its parts, whether it has segments or
        not.
    """

    of_videos: tuple[tuple[TimeRange, ...], ...]
    rows: tuple[tuple[int, int], ...]
    messages: Mapping[int, tuple[str, ...]]


def check_settings(outputs: Outputs, settings: Mapping[str, str], restart: bool) -> None:
    """Check that the tables in the folder were made with the same settings, or record these.

    Settings may change as long as nothing has been captioned. restart: move tables of other settings, and of the same,
    out of the way.

    Raises:
        UsageError: the settings differ.
        RunError: the tables can't be moved, or the settings can't be written.
    """
    folder = outputs.folder
    if restart and outputs.settings.exists():
        records = read_records(outputs.videos)
        backup = folder.with_name(f"{folder.name}.bak")
        shutil.rmtree(backup, ignore_errors=True)
        try:
            folder.rename(backup)
            folder.mkdir()
        except OSError as error:
            raise RunError(f"--restart: {folder} can't be moved to {backup}: {error}") from error
        logger.info("--restart: the earlier tables are in %s", backup)
        _forget_divisions(outputs, records)
    found = _read_settings(outputs.settings)
    difference = "" if found is None else fingerprint_difference(found, settings, "in the earlier call")
    if found is not None and not difference:
        return
    if difference and (outputs.captions.exists() or _is_interrupted(outputs)):
        raise UsageError(
            f"the tables in {folder} were made with other settings: {'; '.join(difference)}. Give the same arguments "
            "to continue, another --output, or --restart to describe the videos again"
        )
    if found is not None and found.get(RULE) != settings.get(RULE):
        _forget_divisions(outputs, read_records(outputs.videos))
    remove_journals(journal_folder(outputs.captions))  # they have failures only, with the earlier settings
    with atomic_write(outputs.settings) as temporary:
        temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _forget_divisions(outputs: Outputs, records: Mapping[str, VideoRecord]) -> None:
    """Keep only the names of files: those of other videos are in the same folder."""
    if records:
        write_records(outputs.videos, {path: VideoRecord(record.stem) for path, record in records.items()})


def _is_interrupted(outputs: Outputs) -> bool:
    """Whether an interrupted run has captions, which belong to the rows of its table."""
    return any(read_contents(journal_folder(outputs.captions)).captions.values())


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
    """Divide the videos, and write the table of segments.

    A video is divided again only if its file or its parts have changed; if its file has, its captions are removed.
    If an interrupted run has captions, the table is not changed: videos that are not in it are left to the next call.

    workers, timeout: as for `divide_many`.

    Raises:
        UsageError: an interrupted run is about other videos, about other parts, or about the same in another order; or
            the records of earlier calls are damaged.
        RunError: no process can be started, or a file can't be written.
    """
    is_interrupted = _is_interrupted(outputs)
    records = read_records(outputs.videos)
    for video, path in enumerate(inputs.paths):
        records.setdefault(path, VideoRecord(outputs.stems[video].name if outputs.stems else ""))
    replaced = {path for path in inputs.paths if _is_replaced(path, records[path])}
    left: dict[str, str] = {}
    if is_interrupted:
        left = _left_to_next_call(inputs, outputs, records, replaced)
    else:
        _divide(inputs, outputs, records, replaced, rule, workers, timeout)
    write_records(outputs.videos, records)
    of_videos = tuple(records[path].segments for path in inputs.paths)
    rows = tuple((video, number) for video, parts in enumerate(of_videos) for number in range(len(parts)))
    table = _table(
        [
            *((inputs.paths[video], number, of_videos[video][number]) for video, number in rows),
            *_captioned_rows(
                outputs, {path: record for path, record in records.items() if path not in inputs.parts_of}
            ),
        ]
    )
    if not outputs.segments.exists() or not table.is_same_but_for((), MetaTable.read(outputs.segments, ())):
        if is_interrupted:
            raise _other_videos(outputs)
        remove_journals(journal_folder(outputs.captions))  # they have failures only, by the rows of the earlier table
        table.write(outputs.segments, {})
    return Segments(of_videos, rows, _messages(inputs, records, left))


def _is_replaced(path: str, record: VideoRecord) -> bool:
    """Whether the file of a video is another than when it was divided. A file that is gone has not been replaced."""
    now = file_state(path)
    return bool(record.segments) and None not in (now, record.file) and now != record.file


def _has_other_parts(path: str, inputs: Inputs, record: VideoRecord) -> bool:
    return bool(record.segments) and set(record.parts) != set(inputs.parts_of[path])


def _divide(
    inputs: Inputs,
    outputs: Outputs,
    records: dict[str, VideoRecord],
    replaced: Collection[str],
    rule: EqualParts | Scenes,
    workers: int,
    timeout: float,
) -> None:
    """Divide the videos that need it, and replace their records. They are written after each block."""
    if replaced:
        logger.warning(
            "%d videos have been replaced since the earlier call, and are divided and captioned again; for example %s",
            len(replaced),
            min(replaced),
        )
        _blank(outputs.captions, (TEXT_COLUMN,), replaced)
        _blank(outputs.summaries, (SUMMARY, TITLE), replaced)
    changed = [path for path in inputs.paths if _has_other_parts(path, inputs, records[path])]
    if changed:
        logger.warning(
            "%d videos have other parts than in the earlier call; captions of segments that they no longer have are "
            "only in %s.bak; for example %s",
            len(changed),
            outputs.captions,
            changed[0],
        )
    again = {*replaced, *changed}
    wanted = {
        path: (records[path], parts)
        for path, parts in inputs.parts_of.items()
        if path in again or not records[path].segments
    }
    for block in divide_blocks(wanted, rule, workers, timeout):
        records |= block
        write_records(outputs.videos, records)


def _left_to_next_call(
    inputs: Inputs, outputs: Outputs, records: Mapping[str, VideoRecord], replaced: Collection[str]
) -> dict[str, str]:
    """Why videos have to wait for the end of an interrupted run, by their paths."""
    if any(_has_other_parts(path, inputs, records[path]) for path in inputs.paths):
        raise _other_videos(outputs)
    again = "run the same command again to describe it"
    left = dict.fromkeys(replaced, f"the file has been replaced since a run was interrupted; {again}")
    for path in inputs.paths:
        if not records[path].segments and not records[path].messages:
            left[path] = f"the video was added to an interrupted run; {again}"
    return left


def _other_videos(outputs: Outputs) -> UsageError:
    return UsageError(
        f"the interrupted run in {outputs.folder} is about other videos or parts, or about the same in another order; "
        "give the same videos to continue, another --output, or --restart to describe the videos again"
    )


def _messages(
    inputs: Inputs, records: Mapping[str, VideoRecord], left: Mapping[str, str]
) -> dict[int, tuple[str, ...]]:
    found = {}
    for video, path in enumerate(inputs.paths):
        messages = (*records[path].messages, *([left[path]] if path in left else ()))
        if messages:
            logger.warning("%s: %s", path, "; ".join(messages))
            found[video] = messages
    return found


def _blank(table: Path, columns: Sequence[str], videos: Collection[str]) -> None:
    """Remove the texts of some videos from a table of an earlier call; the next run makes them again."""
    if not table.exists():
        return
    found = MetaTable.read(table, columns)
    texts = dict(zip(columns, found.cells(columns), strict=True))
    blanked = {
        name: ["" if path in videos else text for path, text in zip(found.paths, column, strict=True)]
        for name, column in texts.items()
    }
    if blanked != texts:
        found.write(table, blanked)


def _captioned_rows(outputs: Outputs, others: Mapping[str, VideoRecord]) -> list[tuple[str, int, TimeRange]]:
    """The captioned segments of videos that are no inputs of this call: they stay in the tables."""
    if not others or not outputs.captions.exists():
        return []
    table = MetaTable.read(outputs.captions, ())
    captioned = {(path, table.range_of(row)) for row, path in enumerate(table.paths) if path in others}
    captioned -= {(table.paths[row], table.range_of(row)) for row, text in enumerate(table.texts() or ()) if not text}
    return [
        (path, number, part)
        for path, record in others.items()
        for number, part in enumerate(record.segments)
        if (path, part) in captioned
    ]


def _table(rows: Sequence[tuple[str, int, TimeRange]]) -> MadeTable:
    """rows: of each segment the path of its video, its number and its time."""
    columns = {
        PATH_COLUMN: [path for path, _, _ in rows],
        START_COLUMN: [part.cells[0] for _, _, part in rows],
        END_COLUMN: [part.cells[1] for _, _, part in rows],
        SEGMENT_COLUMN: [str(number) for _, number, _ in rows],
    }
    return MadeTable(columns, {})
