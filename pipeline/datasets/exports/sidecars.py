"""Export to text files: the captions of each clip beside it, or in one folder.

Two passes over the table. The first computes the names of all files and writes nothing: it finds files that exist
already, and files that two rows would write with different captions.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.captioning.clips.downloads.urls import is_url
from pipeline.captioning.clips.media import file_name
from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.meta.ranges import range_suffix
from pipeline.captioning.process.errors import RunError, UsageError

from .failures import FailedRows
from .rows import CaptionedTable, Row
from .small_files import MAX_EXAMPLES, conflicting, contains, hash_of, identity_of, write_file


class NoNameError(Exception):
    """There is no name for the caption file of a row; the message says why."""


@dataclass(frozen=True)
class SidecarNames:
    """Where the captions of a clip are written.

    folder: the folder of all files; None for the folder of each clip.
    root: the files in `folder` have the path of their clip relative to this folder or URL; None for its name only.
    keep_suffix: `a.mp4.txt` instead of `a.txt`.
    columns: the caption columns. If there are several, their names become part of the file name: `a.text_short.txt`.
    suffix: of the files.
    """

    folder: Path | None
    root: str | None
    keep_suffix: bool
    columns: Sequence[str]
    suffix: str = ".txt"

    def of(self, path: str, part: TimeRange | None = None) -> list[str]:
        """The file for each column, for the clip at `path`. A range becomes part of its name: `a_12.500-20.000.txt`.

        Raises:
            NoNameError: the clip is a URL, but has no folder; it is not below `root`; or `path` does not name a file.
        """
        stem = self._with_folder(path)
        if os.path.basename(stem) in ("", ".", "..") or "\0" in stem:  # a URL may contain %00
            raise NoNameError("the path does not name a file")
        if not self.keep_suffix:
            stem = os.path.splitext(stem)[0]
        stem += range_suffix(part)
        files = (
            [stem + self.suffix] if len(self.columns) == 1 else [f"{stem}.{name}{self.suffix}" for name in self.columns]
        )
        if path in files:
            raise NoNameError(f"its caption file would replace the clip itself, which ends in {self.suffix}")
        return files

    def flags_apart(self, groups: Sequence[Sequence[str]]) -> list[str]:
        """The fewest flags that, together, give different files to clips that have one file now; none if no flags do.

        groups: the paths of the clips of each file.
        """
        choices = [["--keep_suffix"], ["--root"], ["--keep_suffix", "--root"]]
        for flags in choices:
            if "--root" in flags and (self.folder is None or self.root is not None):
                continue
            changed = replace(self, keep_suffix=self.keep_suffix or "--keep_suffix" in flags)
            name = changed._below_any_root if "--root" in flags else changed._identity
            if all(len(set(map(name, paths))) == len(paths) for paths in groups):
                return flags
        return []

    def _identity(self, path: str) -> str:
        return identity_of(self.of(path)[0])

    def _below_any_root(self, path: str) -> str:
        """What distinguishes the file of a clip from others below one `root`, whichever it is."""
        whole = file_name(path) if is_url(path) else os.path.abspath(path)
        return whole if self.keep_suffix else os.path.splitext(whole)[0]

    def _with_folder(self, path: str) -> str:
        if self.folder is None:
            if is_url(path):
                raise NoNameError("it is a URL, so there is no folder beside it; give --output FOLDER")
            return path
        if self.root is None:
            return os.path.join(self.folder, os.path.basename(file_name(path)))
        relative = _below(path, self.root)
        if relative is None:
            raise NoNameError(f"it is not below --root {self.root}")
        return os.path.join(self.folder, relative)


def _below(path: str, root: str) -> str | None:
    """`path` relative to `root`; None if it is not below it. Both may be URLs."""
    if is_url(path) or is_url(root):
        if not path.startswith(root.rstrip("/") + "/"):
            return None
        relative = file_name(path)[len(file_name(root).rstrip("/")) :].lstrip("/")
        return None if ".." in relative.split("/") else relative
    relative = os.path.relpath(path, root) if path else ".."
    return None if relative.split("/")[0] == ".." else relative


def check_sidecars(table: CaptionedTable, names: SidecarNames, overwrite: bool) -> None:
    """The first pass: check that no file is lost.

    Memory: 16 bytes for each file.

    Raises:
        UsageError: the table can't be read; two rows would write different captions to one file; or, unless
            `overwrite`, a file exists with another content.
    """
    files, captions = array("Q"), array("Q")
    existing: list[str] = []
    exist = 0
    for _, file, caption in _captions(table, names):
        files.append(hash_of(identity_of(file)))
        captions.append(hash_of(caption))
        if not overwrite and os.path.lexists(file) and not contains(file, caption):
            exist += 1
            if len(existing) < MAX_EXAMPLES:
                existing.append(file)
    conflicts = conflicting(np.frombuffer(files, np.uint64), np.frombuffer(captions, np.uint64))
    if conflicts:
        raise UsageError(_conflict_message(table, names, conflicts))
    if exist:
        raise UsageError(
            f"{exist:,} files exist already with another content, for example {', '.join(map(repr, existing))}; "
            "remove them, or allow it to replace them with --overwrite"
        )


def write_sidecars(table: CaptionedTable, names: SidecarNames, overwrite: bool, failed: FailedRows) -> int:
    """The second pass: write the files; returns the number of files. Each one is whole or does not exist.

    Memory: 8 bytes for each caption.

    Raises:
        RunError: the disk is full, or no row can be exported.
    """
    written, last_failed = array("Q"), -1
    for row, file, caption in _captions(table, names, failed):
        if row.number == last_failed:
            continue
        try:
            if overwrite or not os.path.lexists(file):
                write_file(file, caption, make_folder=names.folder is not None)
            written.append(hash_of(identity_of(file)))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RunError(f"can't write {file}: {error.strerror}; the same command continues") from error
            failed.add(row, f"can't write {file}: {error.strerror}")
            last_failed = row.number
    files = len(np.unique(np.frombuffer(written, np.uint64)))  # rows with equal captions may have one file
    table.check_exported(files, failed.summary)
    return files


def _captions(
    table: CaptionedTable, names: SidecarNames, failed: FailedRows | None = None
) -> Iterator[tuple[Row, str, str]]:
    """Row, file and caption of each caption that has a file. Rows without a name are given to `failed`."""
    for row in table.captioned_rows():
        try:
            files = names.of(row.path, row.range)
        except NoNameError as error:
            if failed is not None:
                failed.add(row, str(error))
            continue
        for file, caption in zip(files, row.captions, strict=True):
            if caption.strip():
                yield row, file, caption


def _conflict_message(table: CaptionedTable, names: SidecarNames, conflicts: set[int]) -> str:
    rows: dict[int, list[str]] = {}
    files: dict[int, str] = {}
    for row, file, _ in _captions(table, names):
        identity = hash_of(identity_of(file))
        if identity in conflicts:
            files[identity] = file
            rows.setdefault(identity, []).append(f"{row.number} ({row.path!r})")
    examples = "; ".join(
        f"{files[identity]!r} is the file of rows {', '.join(found[:MAX_EXAMPLES])}" for identity, found in rows.items()
    )
    return (
        f"different captions would be written to one file: {examples}; use --keep_suffix (a.mp4.txt), --root (folders "
        "of the clips below --output), or keep one row of each clip (datautil --remove-path-duplication)"
    )
