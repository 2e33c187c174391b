"""Makes a meta table of the videos or images in a folder and its subfolders.

    python -m pipeline.datasets.convert video /path/to/folder --output meta.csv
    python -m pipeline.datasets.convert image /path/to/folder --output images.csv

Columns: `path` (absolute), `id` (file name without suffix), `relpath` (relative to the folder). Rows are sorted by
path.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from pipeline.captioning.clips.media import IMAGE_SUFFIXES
from pipeline.captioning.meta.names import check_output
from pipeline.captioning.process.arguments import CommandParser
from pipeline.captioning.process.errors import UsageError, exit_code_of

from .tables import STRING, write_table

VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".webm", ".wmv",
)  # fmt: skip
KINDS = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}


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
    frame = folder_table(flags.folder, KINDS[flags.kind])
    write_table(frame, flags.output)
    print(f"wrote {flags.output}: {len(frame):,} {flags.kind}s")


def folder_table(folder: Path, suffixes: Sequence[str]) -> pd.DataFrame:
    """A meta table of the files in `folder` and its subfolders that have one of `suffixes`, in upper or lower case.

    Raises:
        UsageError: the folder does not exist, or contains no such file.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    root = os.path.abspath(folder)
    found = sorted(path for path in _files(root) if path.lower().endswith(tuple(suffixes)))
    if not found:
        raise UsageError(f"{folder} contains no file that ends in {', '.join(suffixes)}")
    columns = {
        "path": found,
        "id": [os.path.splitext(os.path.basename(path))[0] for path in found],
        "relpath": [os.path.relpath(path, root) for path in found],
    }
    return pd.DataFrame(columns, dtype=STRING)


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
