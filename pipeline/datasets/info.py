"""Sizes and lengths of videos and images, looked at in processes that a broken file may hang or kill."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

import pandas as pd
from PIL import Image, ImageOps
from tqdm import tqdm

from pipeline.captioning.clips.decode import IMAGE_SUFFIXES, DecodeError, check_path
from pipeline.captioning.clips.decode_pyav import video_info
from pipeline.captioning.clips.frames import check_size
from pipeline.captioning.clips.killable import DecoderLimits, KillableProcess, serve
from pipeline.captioning.process.errors import RunError

from .operation import Settings
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
"""aspect_ratio: height by width. resolution: pixels of a frame. fps and duration (seconds) are empty for images."""


def add_info(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    return _add(frame, settings, as_text(frame["path"]).tolist())


def add_video_info(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    paths = as_text(frame["path"]).tolist()
    return _add(frame, settings, [path for path in paths if not path.lower().endswith(IMAGE_SUFFIXES)])


def _add(frame: pd.DataFrame, settings: Settings, paths: Sequence[str]) -> pd.DataFrame:
    found, problems = look_at(paths, settings)
    for path, problem in list(problems.items())[:_MOST_MESSAGES]:
        tqdm.write(f"{path}: {problem}")
    if len(problems) > _MOST_MESSAGES:
        tqdm.write(f"… and {len(problems) - _MOST_MESSAGES:,} more files that can't be read")
    values = [found.get(path, {}) for path in as_text(frame["path"]).tolist()]
    for name, dtype in _TYPES.items():
        frame = with_column(frame, name, [value.get(name) for value in values], dtype)
    return frame


_MOST_MESSAGES = 20


def look_at(paths: Sequence[str], settings: Settings) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """COLUMNS of each file that can be read, and what is wrong with each of the others, by path.

    Raises:
        RunError: no process can be started to look into files.
    """
    distinct = list(dict.fromkeys(paths))
    waiting: Iterator[str] = iter(distinct)
    found: dict[str, dict[str, Any]] = {}
    problems: dict[str, str] = {}
    broken: list[RunError] = []
    lock, stopping = threading.Lock(), threading.Event()

    def work(bar: tqdm) -> None:
        prober = _Prober(DecoderLimits(settings.timeout))
        try:
            while not stopping.is_set():
                with lock:
                    path = next(waiting, None)
                if path is None:
                    return
                answer, problem = prober.ask(path, stopping)
                with lock:
                    if isinstance(answer, dict):
                        found[path] = answer
                    else:
                        problems[path] = problem or answer
                    bar.update()
                if answer is not None:
                    prober.recycle()
        except RunError as error:
            broken.append(error)
            stopping.set()
        finally:
            prober.kill()

    with tqdm(total=len(distinct), unit="file", desc="info", smoothing=0.05) as bar:
        threads = [
            threading.Thread(target=work, args=(bar,), daemon=True)
            for _ in range(max(1, min(settings.workers, len(distinct))))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            stopping.set()
    if broken:
        raise broken[0]
    return found, problems


class _Prober(KillableProcess):
    timeout_option = "--timeout"

    def _make_process(self, context: SpawnContext, connection: Connection) -> BaseProcess:
        return context.Process(target=serve, args=(connection, _look), name="file-prober", daemon=True)


def _look(path: str) -> dict[str, Any] | str:
    """COLUMNS of one file, or what is wrong with it."""
    try:
        check_path(path)
        if path.lower().endswith(IMAGE_SUFFIXES):
            with Image.open(path) as image:
                check_size(*image.size)
                width, height = ImageOps.exif_transpose(image).size
            frames, fps, duration = 1, None, None
        else:
            video = video_info(path)
            frames, height, width = video.num_frames, video.height, video.width
            fps, duration = video.fps, video.duration
    except DecodeError as error:
        return str(error)
    except Exception as error:  # decoders raise whatever they like
        return " ".join(str(error).split())[:300] or type(error).__name__
    values = (frames, height, width, height / width, fps, duration, height * width)
    return dict(zip(COLUMNS, values, strict=True))
