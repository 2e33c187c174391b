"""Explain why a CSV file can't be read: the fault, its place, and the fix.

After a fast reader has failed, the file is read again, slowly. Rows are numbered from 0, as in the failures file; lines
from 1, as in editors. Knows nothing about the meaning of columns, except that there should be a `path`.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_FORMATS = (
    (b"\x1f\x8b", "it is compressed with gzip; rename it so that it ends in .csv.gz"),
    (b"PAR1", "it is Parquet; rename it so that it ends in .parquet"),
    (b"PK\x03\x04", "it is a ZIP archive or a spreadsheet; save it as CSV (UTF-8)"),
    (b"\xff\xfe", "it is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {file} > utf8.csv"),
    (b"\xfe\xff", "it is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 {file} > utf8.csv"),
)
_SEPARATORS = ((";", "semicolons", ";"), ("\t", "tabs", "\\t"), ("|", "vertical bars", "|"))
"""The separator, its name, and its form in a Python string."""
_JSON = re.compile(rb'\s*(\{\s*["}]|\[\s*[\[{])')

csv.field_size_limit(sys.maxsize)  # for the whole process, because a caption or a list in a cell may be long


@dataclass(frozen=True)
class Record:
    """A row or the header.

    row: number of the row; -1 for the header.
    line: number of its first line.
    """

    row: int
    line: int
    cells: list[str]

    def __str__(self) -> str:
        return "the header" if self.row < 0 else f"row {self.row} (line {self.line})"


def format_fault(path: Path, start: bytes) -> str | None:
    """If the first bytes show another format than CSV: which one, and the fix. None if the file may be CSV.

    start: the first bytes of the file; of a `.csv.gz` file, decompressed.
    """
    for signature, fault in _FORMATS:
        if start.startswith(signature):
            return fault.format(file=shlex.quote(str(path)))
    if _JSON.match(start.removeprefix(b"\xef\xbb\xbf")):
        lines = "" if start.lstrip().startswith(b"[") else ", lines=True"
        code = f"import pandas; pandas.read_json('{path}'{lines}, dtype=False).to_csv('converted.csv', index=False)"
        return f'it is JSON; convert it: python -c "{code}"'
    return None


def separator_fault(path: Path, header: list[str]) -> str | None:
    """If the header is one column because the separator is not a comma: the separator and the fix; else None."""
    if len(header) != 1:
        return None
    for separator, name, argument in _SEPARATORS:
        parts = [part.strip().strip('"').lower() for part in header[0].split(separator)]
        if len(parts) > 1 and "path" in parts:
            code = (
                f"import pandas; pandas.read_csv('{path}', sep='{argument}', dtype=str, na_filter=False)"
                ".to_csv('converted.csv', index=False)"
            )
            return f'its columns are separated by {name}, not by commas; convert it: python -c "{code}"'
    return None


def encoding_fault(file: IO[bytes]) -> str:
    """The first line that is not UTF-8."""
    for number, line in enumerate(file, start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = line[error.start]
            return (
                f"line {number} is not UTF-8 (byte 0x{byte:02x}); convert the file from its encoding, for example: "
                "iconv -f GB18030 -t UTF-8, or iconv -f WINDOWS-1252 -t UTF-8"
            )
    return "it is not UTF-8"


def nul_fault(file: IO[bytes]) -> str:
    """The cell that contains the first NUL byte."""
    header: list[str] = []
    last = Record(-1, 1, [""])
    for record in records(_until_nul(_text(file))):
        header, last = header or record.cells, record
    column = len(last.cells) - 1
    if last.row < 0:
        return "the header holds a NUL byte; is it UTF-16, or not a text file?"
    name = f"'{header[column]}'" if column < len(header) else f"{column + 1}"
    return f"{last}, column {name} holds a NUL byte; remove it, for example: tr -d '\\000'"


def length_fault(file: IO[bytes]) -> str:
    """The first row with more cells than the header; '' if there is none."""
    header: list[str] = []
    for record in records(_text(file)):
        if not header:
            header = record.cells
        elif len(record.cells) > len(header):
            return (
                f"{record} has {len(record.cells)} cells, but the header has {len(header)}; "
                "put quotes around cells that contain commas"
            )
    return ""


def quote_fault(file: IO[bytes]) -> str:
    """The row with a quote that is never closed. A reader takes everything after the quote for one cell."""
    last: Record | None = None
    for record in records(_text(file)):
        last = record
    return f"a quote opens in {last} and is never closed" if last else "a quote is never closed"


def records(lines: Iterable[str]) -> Iterator[Record]:
    """The header and all rows, without blank lines. `lines` must include their line ends."""
    reader = csv.reader(lines)
    row, line = -1, 1
    for cells in reader:
        if cells and not (len(cells) == 1 and cells[0].isspace()):
            yield Record(row, line, cells)
            row += 1
        line = reader.line_num + 1


def _text(file: IO[bytes]) -> Iterable[str]:
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")


def _until_nul(lines: Iterable[str]) -> Iterator[str]:
    """The lines up to the first NUL, which is replaced by a letter. So the last cell is the one with the NUL."""
    for line in lines:
        if "\0" in line:
            yield line[: line.index("\0")] + "x"
            return
        yield line
