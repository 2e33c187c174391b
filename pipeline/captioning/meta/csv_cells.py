"""Read and write CSV files, plain or compressed with gzip. All cells are strings and stay unchanged.

Knows nothing about the meaning of columns.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
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

NUL, NUL_REPLACEMENT = "\0", "\ufffd"
"""Many CSV readers end a cell at a NUL character, so U+FFFD is written in its place."""
_BOM = b"\xef\xbb\xbf"
_CHUNK_BYTES = 1 << 20
_END_OF_TABLE = ("\n", "end of table")
"""Lines read after the last one of a file. If a quote is not closed, they are not a row of their own."""
_COMPRESSION_LEVEL = 6
"""Of gzip. The highest level takes several times as long and saves a few percent."""


@dataclass(frozen=True)
class CsvStyle:
    """Properties of a CSV file, other than its cells, on which its readers may depend.

    has_bom: the file starts with a byte order mark.
    line_end: the end of each row; line ends within cells may differ.
    """

    has_bom: bool = False
    line_end: str = "\n"


PLAIN_CSV = CsvStyle()


def read_csv_cells(path: Path, dtype: Any = str, columns: list[int] | None = None) -> pd.DataFrame:
    """All cells of a CSV file as strings. Row 0 of the frame is the header. Rows that are too short get empty cells.

    dtype: pandas type of the cells. columns: positions of the columns to read; None for all.

    Raises:
        UsageError: the file is not CSV, is empty, is not UTF-8, contains NUL bytes, or has a row with more cells than
            the header.
    """
    header, last_line = _first_record(path)
    with _read_errors_explained(path):
        if _contains_nul(path):  # pandas would cut the cell there
            raise _unreadable(path, _find_fault(path, csv_faults.nul_fault))
        if _line_end(last_line) == "\r":
            cells = _read_cr_rows(path, len(header), dtype)
            return cells if columns is None else cells[columns]
        # The header is read as a row, so that pandas neither renames nor reorders columns. pandas does not unquote a
        # cell that follows a byte order mark, so utf-8-sig removes the mark first.
        return pd.read_csv(
            path, header=None, dtype=dtype, na_filter=False, encoding="utf-8-sig",
            compression="gzip" if is_gzip(path) else None, usecols=columns,
        )  # fmt: skip


def read_csv_rows(path: Path) -> Iterator[list[str]]:
    """The header and all rows of a CSV file, one at a time. Rows that are too short get empty cells.

    In contrast to `read_csv_cells`, the table is never in memory.

    Raises:
        UsageError: as `read_csv_cells`; for a fault in a row, when this row is read.
    """
    columns = len(read_header(path))
    with _read_errors_explained(path):
        if _contains_nul(path):
            raise _unreadable(path, _find_fault(path, csv_faults.nul_fault))
        # pandas would ignore the cells that a row has more than the header, unless they are in its first chunk.
        with open_bytes(path) as file:
            lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            cells: list[str] = []
            for record in csv_faults.records(itertools.chain(lines, _END_OF_TABLE)):
                if cells:
                    yield cells
                if len(record.cells) > columns:
                    raise pd.errors.ParserError
                cells = record.cells + [""] * (columns - len(record.cells))
        if cells[0] != _END_OF_TABLE[-1]:
            raise pd.errors.ParserError("EOF inside string")


def read_header(path: Path) -> list[str]:
    """The names of the columns.

    Raises:
        UsageError: as `read_csv_cells`, but only for faults that the header shows.
    """
    return _first_record(path)[0]


def csv_style(path: Path) -> CsvStyle:
    """The style of a file. The line end of the header counts.

    Raises:
        UsageError: as `read_header`.
    """
    with _read_errors_explained(path), open_bytes(path) as file:
        has_bom = file.read(len(_BOM)) == _BOM
    return CsvStyle(has_bom, _line_end(_first_record(path)[1]))


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a CSV file, decompressed."""
    return cast(IO[bytes], gzip.open(path, "rb")) if is_gzip(path) else path.open("rb")


def write_csv(frame: pd.DataFrame, file: Path, style: CsvStyle, compressed: bool) -> None:
    """Write the names of the columns and all cells. Equal cells give equal bytes, also when `compressed` (gzip)."""
    # Before Python 3.13, the csv module does not quote a cell with a CR or LF that `line_end` does not contain. Many
    # readers would split the row there.
    other_ends = "".join(end for end in "\r\n" if end not in style.line_end)
    columns = [pd.Series(frame.columns.astype(str)), *(frame.iloc[:, i] for i in range(frame.shape[1]))]
    has_other_end = any(_contains(column, end) for end in other_ends for column in columns)
    quoting: Literal[0, 1] = 1 if has_other_end else 0  # csv.QUOTE_ALL, csv.QUOTE_MINIMAL
    with file.open("wb") as raw:
        # With a name or a time in gzip's header, equal tables would give different bytes.
        output = gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, raw, mtime=0) if compressed else raw
        encoding = "utf-8-sig" if style.has_bom else "utf-8"
        text = io.TextIOWrapper(cast(IO[bytes], output), encoding=encoding, newline="")
        frame.to_csv(text, index=False, lineterminator=style.line_end, quoting=quoting)
        text.flush()
        text.detach()
        if output is not raw:
            output.close()


def _contains(column: pd.Series, part: str) -> bool:
    return pd.api.types.is_string_dtype(column) and bool(column.str.contains(part, regex=False).any())


def _first_record(path: Path) -> tuple[list[str], str]:
    """The cells of the header, and the last line of the header with its line end."""
    last_line = ""

    def lines(file: IO[bytes]) -> Iterator[str]:
        nonlocal last_line
        for last_line in io.TextIOWrapper(file, encoding="utf-8-sig", newline=""):
            if "\0" in last_line:
                raise _unreadable(path, _find_fault(path, csv_faults.nul_fault))
            yield last_line

    with _read_errors_explained(path):
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
        return header, last_line


def _line_end(line: str) -> str:
    return next((end for end in ("\r\n", "\r") if line.endswith(end)), "\n")


def _read_cr_rows(path: Path, columns: int, dtype: Any) -> pd.DataFrame:
    """Read a file whose rows end with CR alone. pandas would misread spaces and quotes after such line ends."""
    with open_bytes(path) as file:
        lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        rows = [record.cells for record in csv_faults.records(lines)]
    if max(map(len, rows)) > columns:
        raise pd.errors.ParserError
    return pd.DataFrame([row + [""] * (columns - len(row)) for row in rows], dtype=dtype)


def _contains_nul(path: Path) -> bool:
    with open_bytes(path) as file:
        return any(b"\0" in chunk for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""))


@contextmanager
def _read_errors_explained(path: Path) -> Iterator[None]:
    """Turn errors of reading into UsageError, with the place of the fault and the fix."""
    try:
        yield
    except pd.errors.EmptyDataError as error:
        raise UsageError(f"table {path} is empty; it needs a header with a 'path' column") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, _find_fault(path, csv_faults.encoding_fault)) from error
    except pd.errors.ParserError as error:
        find = csv_faults.quote_fault if "EOF inside string" in str(error) else csv_faults.length_fault
        raise _unreadable(path, _find_fault(path, find) or " ".join(str(error).split())) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"table {path} can't be read as gzip: {error}; is it a complete .csv.gz file?") from error
    except (OSError, csv.Error) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error


def _find_fault(path: Path, find: Callable[[IO[bytes]], str]) -> str:
    with open_bytes(path) as file:
        return find(file)


def _unreadable(path: Path, cause: str) -> UsageError:
    return UsageError(f"table {path} can't be read as CSV (UTF-8): {cause}")
