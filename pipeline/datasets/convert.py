"""Makes a meta table of the videos or images in a folder and its subfolders.

    python -m pipeline.datasets.convert video /path/to/folder --output meta.csv
    python -m pipeline.datasets.convert image /path/to/folder --output images.csv

Columns: `path` (absolute), `id` (file name without suffix), `relpath` (relative to the folder). Rows are sorted by
path. Animated .png and .webp files are videos.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from pipeline.captioning.meta.names import check_output
from pipeline.captioning.process.arguments import CommandParser
from pipeline.captioning.process.errors import UsageError, exit_code_of

from .media import ANIMATED_SUFFIXES, KINDS, is_animated
from .tables import STRING, write_table

_READERS = 8
"""Threads that look at the contents of files."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = CommandParser(prog="convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS, help="kind of the files to list")
    parser.add_argument("folder", type=Path, help="folder to search, with its subfolders")
    parser.add_argument("--output", type=Path, required=True, help="table to write: .csv, .csv.gz or .parquet")
    return exit_code_of(parser.prog, lambda: _run(parser.parse_args(arguments)))


def _run(flags: argparse.Namespace) -> None:
    check_output(flags.output)
    if flags.output.exists():
        raise UsageError(f"--output {flags.output} exists already; remove it, or give another name")
    frame, animated = folder_table(flags.folder, flags.kind)
    write_table(frame, flags.output)
    about = f"{animated:,} animated {_ANIMATED_FILES}"
    if not animated:
        note = ""
    elif flags.kind == "video":
        note = f", of which {about}"
    else:
        note = f"; left out {about}, which `convert video` lists"
    print(f"wrote {flags.output}: {len(frame):,} {flags.kind}s{note}")


_ANIMATED_FILES = f"{' and '.join(ANIMATED_SUFFIXES)} files"


def folder_table(folder: Path, kind: str) -> tuple[pd.DataFrame, int]:
    """A meta table of the videos or still images in `folder` and its subfolders, and the number of animated images.

    The suffix decides, in upper or lower case; for ANIMATED_SUFFIXES the content does.

    kind: a key of KINDS. Animated images are rows of a table of videos; a table of images leaves them out.

    Raises:
        UsageError: the folder does not exist, or contains no such file.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    root = os.path.abspath(folder)
    files = list(_files(root))
    chosen = {path for path in files if path.lower().endswith(KINDS[kind])}
    animated = _animated(files)
    found = sorted(chosen | animated if kind == "video" else chosen - animated)
    if not found:
        left_out = f"; it has {len(animated):,} animated {_ANIMATED_FILES}, which are clips" if animated else ""
        raise UsageError(f"{folder} contains no file that ends in {', '.join(KINDS[kind])}{left_out}")
    columns = {
        "path": found,
        "id": [os.path.splitext(os.path.basename(path))[0] for path in found],
        "relpath": [os.path.relpath(path, root) for path in found],
    }
    return pd.DataFrame(columns, dtype=STRING), len(animated)


def _animated(files: Sequence[str]) -> set[str]:
    candidates = [path for path in files if path.lower().endswith(ANIMATED_SUFFIXES)]
    with ThreadPoolExecutor(_READERS) as pool:
        return {path for path, found in zip(candidates, pool.map(is_animated, candidates), strict=True) if found}


def _files(folder: str) -> Iterator[str]:
    """All files in `folder` and its subfolders. Does not follow links to folders, because they may form cycles."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if not _is_utf8(path):
                print(
                    f"skipped, because its name is not UTF-8: {path.encode(errors='backslashreplace').decode()}",
                    file=sys.stderr,
                )
            elif not name.startswith("."):
                yield path


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
