"""Names of tables and of the files beside them. Opens no file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..process.errors import UsageError

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
"""Of tables that are written. A table with any other suffix is read as CSV."""
MOST_NAME_BYTES = 200
"""File systems allow 255; temporary files and backups beside an output have longer names than the output."""
_MOST_COLUMNS = 20
_MOST_COLUMN_CHARACTERS = 60


def suffix_of(path: Path) -> str:
    """The one of SUFFIXES that `path` ends in, as it is written there; '' for any other ending."""
    found = [suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix) and len(path.name) > len(suffix)]
    return path.name[-len(max(found, key=len)) :] if found else ""


def stem_of(path: Path) -> str:
    """The name of a table without its suffix; `.csv.gz` counts as one suffix."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def default_output(meta_path: Path) -> Path:
    """Where captions go without `--output`."""
    return meta_path.with_name(f"{stem_of(meta_path)}_caption{suffix_of(meta_path) or '.csv'}")


def failures_path(output: Path) -> Path:
    """Every failed row with its stage and messages."""
    return _beside(output, "failures.csv")


def report_path(output: Path) -> Path:
    """The figures of the run."""
    return _beside(output, "report.json")


def outcomes_path(output: Path) -> Path:
    """The outcome of every row."""
    return _beside(output, "outcomes.jsonl")


def gallery_path(output: Path) -> Path:
    """The page of captions and frames."""
    return _beside(output, "gallery.html")


def _beside(output: Path, name: str) -> Path:
    """`s_report.json` for `s.csv`; the name of any other table stays whole, so that no two tables share a file."""
    stem = output.name.removesuffix(".csv")
    # s.csv, but not s.parquet.csv, whose files would be those of s.parquet.
    return output.with_name(f"{output.name if suffix_of(Path(stem)) else stem}_{name}")


def is_parquet(path: Path) -> bool:
    return suffix_of(path).lower() in (".parquet", ".pq")


def is_gzip(path: Path) -> bool:
    return suffix_of(path).lower() == ".csv.gz"


def check_output(path: Path) -> None:
    """Check that `--output` names a table that can be written.

    Raises:
        UsageError: an unknown suffix, too long a name, no such folder, or something there that is not a file.
    """
    if not suffix_of(path):
        raise UsageError(
            f"--output {path}: the suffix selects the format, but '{path.suffix}' is none of {', '.join(SUFFIXES)}"
        )
    try:
        if len(path.name.encode(errors="surrogateescape")) > MOST_NAME_BYTES:
            raise UsageError(f"--output {path}: the name is longer than {MOST_NAME_BYTES} bytes; give a shorter one")
        if path.is_dir():
            raise UsageError(f"--output {path} is a folder; name a file")
        if path.exists() and not path.is_file():
            raise UsageError(f"--output {path} is not a regular file; give another name")
        if not path.parent.is_dir():
            raise UsageError(f"the folder of --output, {path.parent}, does not exist")
    except OSError as error:
        raise UsageError(f"--output {path} can't be used: {error.strerror}; give another name") from error


def check_is_file(path: Path, what: str) -> None:
    """Check that there is a regular file; `what` it is goes before its name in messages.

    Raises:
        UsageError: there is none, or it can't be reached.
    """
    try:
        if path.is_file():
            return
        exists = path.exists()
    except OSError as error:
        raise UsageError(f"{what} {path} can't be read: {error.strerror}") from error
    raise UsageError(f"{what} {path} {'is not a file' if exists else 'does not exist'}")


def column_list(columns: Iterable[object]) -> str:
    """Names of columns for messages: quoted, long ones cut, the first few of many."""

    def shown(name: str) -> str:
        return repr(name if len(name) <= _MOST_COLUMN_CHARACTERS else f"{name[:_MOST_COLUMN_CHARACTERS]}…")

    names = list(map(str, columns))
    more = f" and {len(names) - _MOST_COLUMNS:,} more" if len(names) > _MOST_COLUMNS else ""
    return (", ".join(shown(name) for name in names[:_MOST_COLUMNS]) or "none") + more
