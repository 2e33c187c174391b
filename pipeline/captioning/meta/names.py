"""The names of tables, of their columns and of the files next to them, and checks of these names. Opens no file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..process.errors import UsageError

PATH_COLUMN = "path"
TEXT_COLUMN = "text"
"""The column that receives the captions unless a run names others."""
SEGMENT_COLUMN = "segment"
"""The number of a segment within its video, from 0."""
START_COLUMN, END_COLUMN = RANGE_COLUMNS = "start", "end"
"""The part of its file that a row is, in seconds."""
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
"""Suffixes of tables that can be written. A table with any other suffix is read as CSV."""
MAX_NAME_BYTES = 200
"""File systems allow 255. Temporary files and backups have longer names than the output."""
_MAX_COLUMNS = 20
_MAX_COLUMN_CHARACTERS = 60


def suffix_of(path: Path) -> str:
    """The suffix of `path` if it is one of SUFFIXES, in the case in which it is written; else ''."""
    found = [suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix) and len(path.name) > len(suffix)]
    return path.name[-len(max(found, key=len)) :] if found else ""


def stem_of(path: Path) -> str:
    """The name of a table without its suffix; `.csv.gz` counts as one suffix."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def default_output(meta_path: Path) -> Path:
    """The output if `--output` is not given."""
    return meta_path.with_name(f"{stem_of(meta_path)}_caption{suffix_of(meta_path) or '.csv'}")


def summary_output(segments_path: Path) -> Path:
    """The table of summaries if `--output` is not given."""
    return segments_path.with_name(f"{stem_of(segments_path)}_summary{suffix_of(segments_path) or '.csv'}")


def failures_path(output: Path) -> Path:
    """The file of failed rows, with their stages and messages."""
    return _companion(output, "failures.csv")


def report_path(output: Path) -> Path:
    """The file of the run's figures."""
    return _companion(output, "report.json")


def outcomes_path(output: Path) -> Path:
    """The file of the outcomes of all rows."""
    return _companion(output, "outcomes.jsonl")


def gallery_path(output: Path) -> Path:
    """The page of captions and frames."""
    return _companion(output, "gallery.html")


def _companion(output: Path, name: str) -> Path:
    """`s_report.json` for `s.csv`. All other tables keep their suffix, so that two tables never share a file."""
    stem = output.name.removesuffix(".csv")
    # s.parquet.csv keeps its suffix too: without it, its files would have the names of those of s.parquet.
    return output.with_name(f"{output.name if suffix_of(Path(stem)) else stem}_{name}")


def is_parquet(path: Path) -> bool:
    return suffix_of(path).lower() in (".parquet", ".pq")


def is_gzip(path: Path) -> bool:
    return suffix_of(path).lower() == ".csv.gz"


def check_output(path: Path) -> None:
    """Check that `--output` names a table that can be written.

    Raises:
        UsageError: the suffix is unknown, the name is too long, the folder does not exist, or `path` exists and is not
            a regular file.
    """
    if not suffix_of(path):
        raise UsageError(
            f"--output {path}: the suffix selects the format, but '{path.suffix}' is none of {', '.join(SUFFIXES)}"
        )
    try:
        if len(path.name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
            raise UsageError(f"--output {path}: the name is longer than {MAX_NAME_BYTES} bytes; give a shorter one")
        if path.is_dir():
            raise UsageError(f"--output {path} is a folder; name a file")
        if path.exists() and not path.is_file():
            raise UsageError(f"--output {path} is not a regular file; give another name")
        if not path.parent.is_dir():
            raise UsageError(f"the folder of --output, {path.parent}, does not exist")
    except OSError as error:
        raise UsageError(f"--output {path} can't be used: {error.strerror}; give another name") from error


def check_is_file(path: Path, what: str) -> None:
    """Check that `path` is a regular file.

    what: kind of file, which messages put before the path.

    Raises:
        UsageError: there is no file, it is not regular, or it can't be accessed.
    """
    try:
        if path.is_file():
            return
        exists = path.exists()
    except OSError as error:
        raise UsageError(f"{what} {path} can't be read: {error.strerror}") from error
    raise UsageError(f"{what} {path} {'is not a file' if exists else 'does not exist'}")


def column_list(columns: Iterable[object]) -> str:
    """Names of columns for a message: quoted, cut after 60 characters, and at most 20 of them."""

    def shorten(name: str) -> str:
        return repr(name if len(name) <= _MAX_COLUMN_CHARACTERS else f"{name[:_MAX_COLUMN_CHARACTERS]}…")

    names = list(map(str, columns))
    more = f" and {len(names) - _MAX_COLUMNS:,} more" if len(names) > _MAX_COLUMNS else ""
    return (", ".join(shorten(name) for name in names[:_MAX_COLUMNS]) or "none") + more
