"""Operations on the paths of clips, and on the files at these paths."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from pipeline.captioning.clips.downloads.urls import is_url
from pipeline.captioning.clips.media import names_image

from .operation import Settings
from .ranges import row_keys, row_suffixes
from .tables import as_text, with_column
from .urls import stem


def _paths(frame: pd.DataFrame) -> list[str]:
    return as_text(frame["path"]).tolist()


def relative_to(frame: pd.DataFrame, root: str, _: Settings) -> pd.DataFrame:
    """Makes paths relative to `root`. Empty paths and URLs stay unchanged."""
    paths = [path if not path or is_url(path) else os.path.relpath(path, root) for path in _paths(frame)]
    return with_column(frame, "path", paths)


def absolute_under(frame: pd.DataFrame, root: str, _: Settings) -> pd.DataFrame:
    """Prepends `root` to relative paths. Empty paths, absolute paths and URLs stay unchanged."""
    paths = [path if not path or is_url(path) else os.path.join(root, path) for path in _paths(frame)]
    return with_column(frame, "path", paths)


def path_to_id(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    suffixes = row_suffixes(frame, settings)
    return with_column(frame, "id", [stem(path) + suffix for path, suffix in zip(_paths(frame), suffixes, strict=True)])


def with_part(frame: pd.DataFrame, part: str, _: Settings) -> pd.DataFrame:
    return frame[as_text(frame["path"]).str.contains(part, regex=False)]


def without_part(frame: pd.DataFrame, part: str, _: Settings) -> pd.DataFrame:
    return frame[~as_text(frame["path"]).str.contains(part, regex=False)]


def remove_empty(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
    return frame[as_text(frame["path"]).str.strip() != ""]


def remove_duplicates(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    return frame[~row_keys(frame, settings).duplicated()]


def select_images(keep_images: bool) -> Callable[[pd.DataFrame, None, Settings], pd.DataFrame]:
    """An operation that keeps still images, or everything except still images, by the file suffix."""

    def keep(frame: pd.DataFrame, _: None, __: Settings) -> pd.DataFrame:
        return frame[[names_image(path) == keep_images for path in _paths(frame)]]

    return keep


def existing(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    """Keeps rows whose file exists. Keeps all URLs: they are not looked up."""
    with ThreadPoolExecutor(settings.workers) as pool:
        return frame[list(pool.map(_is_url_or_file, _paths(frame), chunksize=256))]


def _is_url_or_file(path: str) -> bool:
    return is_url(path) or os.path.isfile(path)


def file_size(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    """Size in MiB; empty if the file does not exist, or is a URL."""
    with ThreadPoolExecutor(settings.workers) as pool:
        sizes = list(pool.map(_mebibytes, _paths(frame), chunksize=256))
    return with_column(frame, "filesize", sizes, "Float64")


def _mebibytes(path: str) -> float | None:
    if is_url(path):
        return None
    try:
        return os.path.getsize(path) / 2**20
    except OSError:
        return None
