"""Operations on the paths of clips, and on the files at these paths."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from pipeline.captioning.clips.decode import IMAGE_SUFFIXES

from .operation import Settings
from .tables import as_text, with_column


def _paths(frame: pd.DataFrame) -> list[str]:
    return as_text(frame["path"]).tolist()


def relative_to(frame: pd.DataFrame, root: str, _: Settings) -> pd.DataFrame:
    return with_column(frame, "path", [path and os.path.relpath(path, root) for path in _paths(frame)])


def absolute_under(frame: pd.DataFrame, root: str, _: Settings) -> pd.DataFrame:
    """Prepends `root` to relative paths. Absolute paths stay unchanged."""
    return with_column(frame, "path", [path and os.path.join(root, path) for path in _paths(frame)])


def path_to_id(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    return with_column(frame, "id", [os.path.splitext(os.path.basename(path))[0] for path in _paths(frame)])


def with_part(frame: pd.DataFrame, part: str, _: Settings) -> pd.DataFrame:
    return frame[as_text(frame["path"]).str.contains(part, regex=False)]


def without_part(frame: pd.DataFrame, part: str, _: Settings) -> pd.DataFrame:
    return frame[~as_text(frame["path"]).str.contains(part, regex=False)]


def remove_empty(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    return frame[as_text(frame["path"]).str.strip() != ""]


def remove_duplicates(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    return frame.drop_duplicates("path")


def select_images(keep_images: bool) -> Callable[[pd.DataFrame, None, Settings], pd.DataFrame]:
    """An operation that keeps still images, or everything except still images, by the file suffix."""

    def keep(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
        return frame[[path.lower().endswith(IMAGE_SUFFIXES) == keep_images for path in _paths(frame)]]

    return keep


def existing(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    with ThreadPoolExecutor(settings.workers) as pool:
        return frame[list(pool.map(os.path.isfile, _paths(frame), chunksize=256))]


def file_size(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    """Size in MiB; empty if the file does not exist."""
    with ThreadPoolExecutor(settings.workers) as pool:
        sizes = list(pool.map(_mebibytes, _paths(frame), chunksize=256))
    return with_column(frame, "filesize", sizes, "Float64")


def _mebibytes(path: str) -> float | None:
    try:
        return os.path.getsize(path) / 2**20
    except OSError:
        return None
