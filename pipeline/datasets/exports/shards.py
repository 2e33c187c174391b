"""Export to WebDataset: tar files with the clip, the captions and the other cells of each row.

The `webdataset` library writes them into a hidden folder. They replace the shards of an earlier export when all of them
are complete. `index.json` is written last: a folder with this file is a complete export.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tqdm import tqdm

from pipeline.captioning.clips.decode import DecodeError, check_path
from pipeline.captioning.clips.downloads.urls import is_url
from pipeline.captioning.meta.files import atomic_write
from pipeline.captioning.meta.ranges import range_fields
from pipeline.captioning.meta.results import as_json
from pipeline.captioning.process.errors import RunError, UsageError

from ..media import KINDS
from .failures import FailedRows
from .rows import CaptionedTable, Row

INDEX = "index.json"
_SHARD = re.compile(r"\d{6,}\.tar")
_STAGING = ".export-", ".tmp"
"""Beginning and end of the name of the folder in which the shards are written."""
_UNFINISHED = re.compile(r"\.export-.*\.tmp|\.index\.json\..*\.tmp")
_PATTERN = "%06d.tar"
_CLIP_KEYS = {suffix for suffixes in KINDS.values() for suffix in suffixes}
"""A suffix that is not one of these must not become a key: the library's loader parses some of them as numbers, and
unpickles others."""
_WHOLE_FILE = "source"
_MAX_BYTES = 8 * 2**30 - 1
"""The largest file in a tar archive of the kind that the library writes."""


@dataclass(frozen=True)
class ShardSize:
    """When a shard is full: at this number of clips, or when its clips and texts have reached this number of bytes."""

    clips: int
    bytes: int


def check_shards(folder: Path, overwrite: bool) -> None:
    """Check that the folder has no earlier export, unless it may be replaced.

    Raises:
        UsageError: `folder` has shards, and `overwrite` is false.
    """
    found = _earlier_files(folder)
    if found and not overwrite:
        raise UsageError(
            f"--output {folder} has {len(found):,} files of an earlier export, for example {found[0].name}; give "
            "another folder, or allow it to remove them with --overwrite"
        )


def write_shards(table: CaptionedTable, folder: Path, size: ShardSize, failed: FailedRows) -> tuple[int, int]:
    """Write the captioned rows of `table` whose clips can be read; returns the number of clips and of shards.

    Replaces the shards of an earlier export at the end. Until then the disk must have room for both. Memory: the
    largest clip.

    Raises:
        UsageError: a row can't be read; an earlier export is unchanged.
        RunError: a shard can't be written, or no clip can be read; the same.
    """
    captioned = sum(1 for _ in table.captioned_rows())  # finds faults of the table before anything is written
    table.check_exported(captioned)
    with _staging_folder(folder) as staging:
        shards = _write_staged(table, staging, size, captioned, failed)
        table.check_exported(shards.clips, failed.summary)
        _replace_earlier(folder, staging, shards)
    return shards.clips, len(shards.finished)


@contextmanager
def _staging_folder(folder: Path) -> Iterator[Path]:
    """A folder in `folder`, removed at the end. Removes those of earlier exports that were killed."""
    prefix, suffix = _STAGING
    try:
        for path in _matching(folder, _UNFINISHED):  # of an export that was killed
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        staging = Path(tempfile.mkdtemp(suffix, prefix, folder))
    except OSError as error:
        raise RunError(f"can't write into {folder}: {error.strerror}") from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_staged(table: CaptionedTable, staging: Path, size: ShardSize, captioned: int, failed: FailedRows) -> _Shards:
    others = [name for name in table.columns if name not in table.captions]
    with _Shards(staging, size) as shards:
        rows = table.captioned_rows(others)
        for row in tqdm(rows, "export", captioned, unit="clip", smoothing=0.05, disable=None):
            try:
                clip = _read_clip(row.path)
            except (DecodeError, OSError) as error:
                failed.add(row, str(getattr(error, "strerror", None) or error))
                continue
            shards.write(_sample(table, row, dict(zip(others, row.cells, strict=True)), clip))
    return shards


def _replace_earlier(folder: Path, staging: Path, shards: _Shards) -> None:
    with atomic_write(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(shards.index(), indent=1) + "\n", encoding="utf-8")
        for path in _earlier_files(folder):
            path.unlink()
        for shard in shards.finished:
            os.replace(staging / str(shard["url"]), folder / str(shard["url"]))


def _read_clip(path: str) -> bytes:
    """The content of a clip.

    Raises:
        DecodeError, OSError: the path is a URL, or the file is missing, empty, too large or unreadable.
    """
    if is_url(path):
        raise DecodeError(["it is a URL, and the export fetches nothing; download the clip first"])
    check_path(path)
    if Path(path).stat().st_size > _MAX_BYTES:
        raise DecodeError(["the clip has 8 GiB or more, which a tar file of this kind can't contain"])
    return Path(path).read_bytes()


def _sample(table: CaptionedTable, row: Row, cells: dict[str, Any], clip: bytes) -> dict[str, str | bytes]:
    """A sample for the library: the clip under its suffix, captions as text, the other cells as JSON.

    If the row is a part of the file, the file is not the clip that its caption is about. So it has another key, and a
    trainer that asks for clips does not take it for one.
    """
    suffix = Path(row.path).suffix.lower()
    key = suffix[1:] if suffix in _CLIP_KEYS else "clip"
    sample: dict[str, str | bytes] = {
        "__key__": row.key,
        "json": as_json({**cells, **range_fields(row.range)}).encode(),
        key if row.range is None else f"{_WHOLE_FILE}.{key}": clip,
    }
    for name, caption in zip(table.captions, row.captions, strict=True):
        if caption.strip():
            sample["txt" if len(table.captions) == 1 else f"{name}.txt"] = caption.encode()
    return sample


def _earlier_files(folder: Path) -> list[Path]:
    # The index comes first, so that a folder whose shards are being removed is not taken for a complete export.
    return [*_matching(folder, re.compile(re.escape(INDEX))), *_matching(folder, _SHARD)]


def _matching(folder: Path, names: re.Pattern[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if names.fullmatch(path.name)) if folder.is_dir() else []


class _Shards:
    """Writes samples by the library's ShardWriter, so that a shard gets its name when it is complete.

    finished: name, clips and bytes of each complete shard.
    clips: number of clips of all shards.
    """

    def __init__(self, folder: Path, size: ShardSize) -> None:
        self._folder, self._size = folder, size
        self._writer: Any = None
        self._shard = ExitStack()
        self.finished: list[dict[str, str | int]] = []

    @property
    def clips(self) -> int:
        return sum(int(shard["nsamples"]) for shard in self.finished)

    def write(self, sample: dict[str, str | bytes]) -> None:
        if self._writer is None:  # the library's writer creates its first shard at once, even if there is no sample
            try:
                from webdataset.writer import ShardWriter
            except ImportError:
                raise UsageError("--to webdataset needs a package: pip install webdataset") from None
            self._writer = ShardWriter(
                _PATTERN, self._size.clips, self._size.bytes, post=self._finish, opener=self._open, verbose=0,
                encoder=False, mtime=0,
            )  # fmt: skip
        self._writer.write(sample)
        self._writer.tarstream.tarstream.members.clear()  # a list of all files of the shard, which only readers need

    def index(self) -> dict[str, Any]:
        """The shards in the form `wids-shard-index-v1`."""
        return {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": self.finished}

    def _open(self, name: str) -> IO[bytes]:
        temporary = self._shard.enter_context(atomic_write(self._folder / name))
        return self._shard.enter_context(temporary.open("wb"))

    def _finish(self, name: str) -> None:
        self._shard.close()
        size = (self._folder / name).stat().st_size
        self.finished.append({"url": name, "nsamples": self._writer.count, "filesize": size})

    def __enter__(self) -> _Shards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None and kind is None:
            self._writer.close()
        elif self._writer is not None:  # the writer's own close would finish the shard
            with suppress(OSError):
                self._writer.tarstream.close()
        self._shard.__exit__(kind, error, trace)
