"""Operations that read sizes and lengths of videos and images. Separate processes read the files.

A row that is a part of a video gets the length of this part, computed from that of the file: no frame is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from PIL import Image, ImageOps
from tqdm import tqdm

from pipeline.captioning.clips.decode import DecodeError, check_path
from pipeline.captioning.clips.decode_pil import FORMATS
from pipeline.captioning.clips.decode_pyav import video_info
from pipeline.captioning.clips.downloads.urls import is_url
from pipeline.captioning.clips.file_processes import ask_processes, message_of
from pipeline.captioning.clips.frames import check_size
from pipeline.captioning.clips.media import names_image
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.ranges import Ranges

from .operation import Settings
from .ranges import frame_ranges
from .tables import as_text, with_column

_TYPES = {
    "num_frames": "Int64",
    "height": "Int64",
    "width": "Int64",
    "aspect_ratio": "Float64",
    "fps": "Float64",
    "duration": "Float64",
    "resolution": "Int64",
}
COLUMNS = tuple(_TYPES)
"""aspect_ratio: height divided by width. resolution: pixels of a frame. duration: seconds. Images have no fps and no
duration. num_frames and duration of a row with a range are those of the range."""


def add_info(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    return _add_columns(frame, settings, as_text(frame["path"]).tolist())


def add_video_info(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    paths = as_text(frame["path"]).tolist()
    return _add_columns(frame, settings, [path for path in paths if not names_image(path)])


def _add_columns(frame: pd.DataFrame, settings: Settings, paths: Sequence[str]) -> pd.DataFrame:
    ranges = frame_ranges(frame, settings)
    files = [path for path in paths if not is_url(path)]
    if len(files) < len(paths):
        tqdm.write(f"{len(paths) - len(files):,} rows are URLs, which are not read: their cells stay empty")
    found, problems = probe_files(files, settings)
    _report([f"{path}: {problem}" for path, problem in problems.items()], "files can't be read")
    values = _values_of_rows(as_text(frame["path"]).tolist(), ranges, found)
    for name, dtype in _TYPES.items():
        frame = with_column(frame, name, [value.get(name) for value in values], dtype)
    return frame


_MAX_MESSAGES = 20


def _report(problems: Sequence[str], what: str) -> None:
    """Print the first problems, and the number of the others."""
    for problem in problems[:_MAX_MESSAGES]:
        tqdm.write(problem)
    if len(problems) > _MAX_MESSAGES:
        tqdm.write(f"… and {len(problems) - _MAX_MESSAGES:,} more {what}")


def _values_of_rows(paths: Sequence[str], ranges: Ranges, found: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The values of COLUMNS for each row; those of its file if the row is no part of a video."""
    values = [found.get(path, {}) for path in paths]
    problems = []
    for row, part in enumerate(ranges):
        if part is None or values[row].get("duration") is None:
            continue
        try:
            values[row] = values[row] | _length_of_part(values[row], part)
        except ValueError as error:
            problems.append(f"row {row}: {paths[row]}: {error}")
            values[row] = values[row] | {"num_frames": None, "duration": None}
    _report(problems, "rows have a range without frames")
    return values


def _length_of_part(video: Mapping[str, Any], part: TimeRange) -> dict[str, Any]:
    """num_frames and duration of a part of a video.

    Raises:
        ValueError: the video has no frames in this range.
    """
    if part.problem:
        raise ValueError(part.problem)
    end = round(video["duration"] * 1000)
    part.check_begin(end, "the video")
    duration = ((end if part.end is None else min(part.end, end)) - part.start) / 1000
    num_frames = max(1, min(round(duration * video["fps"]), video["num_frames"]))
    return {"num_frames": num_frames, "duration": duration}


def probe_files(paths: Sequence[str], settings: Settings) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The values of COLUMNS for each readable file, and the problem of each other file, both by path.

    Raises:
        RunError: no process can be started to read files.
    """
    return ask_processes(paths, _probe, settings.workers, settings.timeout, "info")


def _probe(path: str) -> dict[str, Any] | str:
    """The values of COLUMNS for one file, or its problem."""
    try:
        check_path(path)
        if names_image(path):
            with Image.open(path, formats=FORMATS) as image:
                check_size(*image.size)
                width, height = ImageOps.exif_transpose(image).size
            frames, fps, duration = 1, None, None
        else:
            video = video_info(path)
            frames, height, width = video.num_frames, video.height, video.width
            fps, duration = video.fps, video.duration
    except DecodeError as error:
        return str(error)
    except Exception as error:  # decoders raise exceptions of any type
        return message_of(error)
    values = (frames, height, width, height / width, fps, duration, height * width)
    return dict(zip(COLUMNS, values, strict=True))
