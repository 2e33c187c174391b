"""CSV files, plain or compressed with gzip: cells in and out as the strings they are. Knows no meaning of a column."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import pandas as pd

from ..process.errors import UsageError
from . import csv_faults
from .names import is_gzip

NUL, NUL_STANDS_AS = "\0", "\ufffd"
"""Many readers of CSV end a cell at a NUL character, so none is written."""
_BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 20
_COMPRESSION_LEVEL = 6
"""Of gzip. The highest takes several times as long and saves a few percent."""


@dataclass(frozen=True)
class CsvStyle:
    """What readers of a CSV file may depend on besides its cells.

    has_bom: it starts with a byte order mark. line_end: how its rows end; line ends within cells are not concerned.
    """

    has_bom: bool = False
    line_end: str = "\n"


PLAIN_CSV = CsvStyle()


def read_csv_cells(path: Path, dtype: Any = str) -> pd.DataFrame:
    """All cells of a CSV file as strings, the header as its first row. Rows that are too short get empty cells.

    Raises:
        UsageError: not CSV, empty, not UTF-8, with NUL bytes, or rows longer than the header.
    """
    header, last_line = _first_record(path)
    with _explained(path):
        if _holds_nul(path):  # pandas cuts the cell there
            raise _unreadable(path, _found(path, csv_faults.nul_fault))
        if _line_end(last_line) == "\r":
            return _read_slowly(path, len(header), dtype)
        # The header is read as a row, so that pandas neither renames nor reorders anything. pandas does not unquote
        # the cell behind a byte order mark; utf-8-sig removes the mark first.
        return pd.read_csv(
            path, header=None, dtype=dtype, na_filter=False, encoding="utf-8-sig",
            compression="gzip" if is_gzip(path) else None,
        )  # fmt: skip


def read_header(path: Path) -> list[str]:
    """The names of the columns; raises as `read_csv_cells` does, for what the start of the file shows."""
    return _first_record(path)[0]


def csv_style(path: Path) -> CsvStyle:
    """The style of a file; its line ends are those of the header."""
    with _explained(path), open_bytes(path) as file:
        has_bom = file.read(len(_BOM)) == _BOM
    return CsvStyle(has_bom, _line_end(_first_record(path)[1]))


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a CSV file, decompressed."""
    return cast(IO[bytes], gzip.open(path, "rb")) if is_gzip(path) else path.open("rb")


def write_csv(frame: pd.DataFrame, file: Path, style: CsvStyle, compressed: bool) -> None:
    """Write cells under the names of the columns. The same cells give the same bytes, also compressed."""
    # The csv module before Python 3.13 quotes only what the line end contains: any other would split the row.
    others = "".join(end for end in "\r\n" if end not in style.line_end)
    columns = [pd.Series(frame.columns.astype(str)), *(frame.iloc[:, i] for i in range(frame.shape[1]))]
    has_other = any(_contains(column, end) for end in others for column in columns)
    quoting: Literal[0, 1] = 1 if has_other else 0  # csv.QUOTE_ALL, csv.QUOTE_MINIMAL
    with file.open("wb") as raw:
        # A name or a time in gzip's header would make equal tables differ.
        packed = gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, raw, mtime=0) if compressed else raw
        encoding = "utf-8-sig" if style.has_bom else "utf-8"
        text = io.TextIOWrapper(cast(IO[bytes], packed), encoding=encoding, newline="")
        frame.to_csv(text, index=False, lineterminator=style.line_end, quoting=quoting)
        text.flush()
        text.detach()
        if packed is not raw:
            packed.close()


def _contains(column: pd.Series, part: str) -> bool:
    return pd.api.types.is_string_dtype(column) and bool(column.str.contains(part, regex=False).any())


def _first_record(path: Path) -> tuple[list[str], str]:
    """The header, and its last line with its end."""
    last = ""

    def lines(file: IO[bytes]) -> Iterator[str]:
        nonlocal last
        for last in io.TextIOWrapper(file, encoding="utf-8-sig", newline=""):
            if "\0" in last:
                raise _unreadable(path, _found(path, csv_faults.nul_fault))
            yield last

    with _explained(path):
        if not os.path.getsize(path):
            raise pd.errors.EmptyDataError
        with open_bytes(path) as file:
            fault = csv_faults.format_fault(path, file.read(64))
        if fault:
            raise _unreadable(path, fault)
        with open_bytes(path) as file:
            for record in csv_faults.records(lines(file)):
                header = record.cells
                break
            else:
                raise pd.errors.EmptyDataError
        fault = csv_faults.separator_fault(path, header)
        if fault:
            raise _unreadable(path, fault)
        return header, last


def _line_end(line: str) -> str:
    return next((end for end in ("\r\n", "\r") if line.endswith(end)), "\n")


def _read_slowly(path: Path, columns: int, dtype: Any) -> pd.DataFrame:
    """As pandas, which misreads spaces and quotes behind line ends that are a lone carriage return."""
    with open_bytes(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        rows = [record.cells for record in csv_faults.records(lines)]
    if max(map(len, rows)) > columns:
        raise pd.errors.ParserError
    return pd.DataFrame([row + [""] * (columns - len(row)) for row in rows], dtype=dtype)


def _holds_nul(path: Path) -> bool:
    with open_bytes(path) as file:
        return any(b"\0" in piece for piece in iter(lambda: file.read(_PIECE), b""))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except pd.errors.EmptyDataError as error:
        raise UsageError(f"table {path} is empty; it needs a header with a 'path' column") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, _found(path, csv_faults.encoding_fault)) from error
    except pd.errors.ParserError as error:
        find = csv_faults.quote_fault if "EOF inside string" in str(error) else csv_faults.length_fault
        raise _unreadable(path, _found(path, find) or " ".join(str(error).split())) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"table {path} can't be read as gzip: {error}; is it a whole .csv.gz file?") from error
    except (OSError, csv.Error) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error


def _found(path: Path, find: Callable[[IO[bytes]], str]) -> str:
    with open_bytes(path) as file:
        return find(file)


def _unreadable(path: Path, cause: str) -> UsageError:
    return UsageError(f"table {path} can't be read as CSV (UTF-8): {cause}")
