"""Read the meta table from CSV or Parquet, and write it with captions in the column `text`.

All other columns, the order of rows and the order of columns stay unchanged. CSV cells are strings; Parquet columns
keep their types. Knows nothing about workers and models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..process.errors import UsageError
from .csv_cells import NUL, NUL_REPLACEMENT, PLAIN_CSV, csv_style, read_csv_cells, read_header, write_csv
from .files import atomic_write
from .names import PATH_COLUMN, TEXT_COLUMN, check_is_file, column_list, is_gzip, is_parquet
from .parquet_cells import check_names, read_parquet, read_schema, texts_of


class MetaTable(ABC):
    """A meta table in memory. Rows are numbered from 0 in file order."""

    paths: list[str]
    """The `path` of every row; '' where it is missing."""

    @abstractmethod
    def texts(self) -> list[str] | None:
        """The `text` of every row ('' where missing); None if the table has no such column."""

    @abstractmethod
    def other_columns(self) -> list[str]:
        """The names of all columns except `path` and `text`, in order."""

    @abstractmethod
    def other_cells(self, rows: Sequence[int]) -> list[list[str]]:
        """For each of `rows`, the text form of its cells in `other_columns`; '' where missing."""

    def write(self, output: Path, captions: Mapping[int, str]) -> None:
        """Write the table to `output` with `captions` (by row) in `text`; rows without a caption get ''.

        The suffix of `output` selects the format. docs/tables.md describes how cells are converted between formats.

        Raises:
            UsageError: this format can't have columns with these names; `check` finds this earlier.
            RunError: the file can't be written.
        """
        texts = [captions.get(row, "").replace(NUL, NUL_REPLACEMENT) for row in range(len(self.paths))]
        if is_parquet(output):
            check_names(output, self._column_names())
        with atomic_write(output, keep_backup=True) as temporary:
            if is_parquet(output):
                self._write_parquet(temporary, texts)
            else:
                self._write_csv(temporary, texts, is_gzip(output))

    def is_same_but_for_text(self, other: MetaTable) -> bool:
        """Whether both tables have the same rows and the same columns in the same order, without the column `text`.

        Tables of different formats are compared by the text form of their cells.
        """
        own, others = ([name for name in table._column_names() if name != TEXT_COLUMN] for table in (self, other))
        if own != others or len(self.paths) != len(other.paths):
            return False
        columns = zip(self._columns_except_text(), other._columns_except_text(), strict=True)
        return all(own_cells == other_cells for own_cells, other_cells in columns)

    @abstractmethod
    def _column_names(self) -> list[str]:
        """The names of all columns, in order."""

    @abstractmethod
    def _columns_except_text(self) -> Iterator[list[str]]:
        """The cells of all columns except `text`, in order, in their text form."""

    @abstractmethod
    def _write_csv(self, file: Path, texts: Sequence[str], compressed: bool) -> None: ...

    @abstractmethod
    def _write_parquet(self, file: Path, texts: Sequence[str]) -> None: ...

    @staticmethod
    def read(path: Path) -> MetaTable:
        """Read a table. The suffix selects the format.

        Raises:
            UsageError: the file is missing, empty or unreadable; or it does not have exactly one `path` column and at
                most one `text` column.
        """
        check_is_file(path, "meta file")
        return _ParquetTable(path) if is_parquet(path) else _CsvTable(path)

    @staticmethod
    def check(path: Path, output: Path | None = None) -> None:
        """Read the header only, to find usage errors early.

        output: the file to which the table will be written.

        Raises:
            UsageError: as `read`, as far as the header shows it; and as `write`, if `output` is given.
        """
        check_is_file(path, "meta file")
        names = read_schema(path).names if is_parquet(path) else read_header(path)
        _check_columns(path, names)
        if output is not None and is_parquet(output):
            check_names(output, names)


class _CsvTable(MetaTable):
    def __init__(self, path: Path) -> None:
        _check_columns(path, read_header(path))
        cells = read_csv_cells(path)
        self._header = [str(name) for name in cells.iloc[0]]
        self._style = csv_style(path)
        self._cells = cells.iloc[1:].reset_index(drop=True)
        self.paths = self._column(PATH_COLUMN)

    def _column(self, name: str) -> list[str]:
        return self._cells[self._header.index(name)].tolist()

    def texts(self) -> list[str] | None:
        return self._column(TEXT_COLUMN) if TEXT_COLUMN in self._header else None

    def other_columns(self) -> list[str]:
        return [name for name in self._header if name not in (PATH_COLUMN, TEXT_COLUMN)]

    def other_cells(self, rows: Sequence[int]) -> list[list[str]]:
        positions = [i for i, name in enumerate(self._header) if name not in (PATH_COLUMN, TEXT_COLUMN)]
        cells: list[list[str]] = self._cells.iloc[list(rows), positions].to_numpy().tolist()
        return cells

    def _column_names(self) -> list[str]:
        return self._header

    def _columns_except_text(self) -> Iterator[list[str]]:
        return (self._cells[i].tolist() for i, name in enumerate(self._header) if name != TEXT_COLUMN)

    def _with_texts(self, texts: Sequence[str]) -> pd.DataFrame:
        header, cells = list(self._header), self._cells.copy(deep=False)
        if TEXT_COLUMN not in header:
            header.append(TEXT_COLUMN)
        cells[header.index(TEXT_COLUMN)] = texts
        cells.columns = pd.Index(header)
        return cells

    def _write_csv(self, file: Path, texts: Sequence[str], compressed: bool) -> None:
        write_csv(self._with_texts(texts), file, self._style, compressed)

    def _write_parquet(self, file: Path, texts: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        cells = self._with_texts(texts)
        pq.write_table(pa.table({name: pa.array(cells[name], pa.string()) for name in cells}), file)


class _ParquetTable(MetaTable):
    def __init__(self, path: Path) -> None:
        _check_columns(path, read_schema(path).names)
        self._table = read_parquet(path)
        self.paths = self._column(PATH_COLUMN)

    def _column(self, name: str) -> list[str]:
        texts: list[str] = texts_of(self._table.column(name)).to_pylist()
        return texts

    def texts(self) -> list[str] | None:
        return self._column(TEXT_COLUMN) if TEXT_COLUMN in self._table.column_names else None

    def other_columns(self) -> list[str]:
        return [name for name in self._table.column_names if name not in (PATH_COLUMN, TEXT_COLUMN)]

    def other_cells(self, rows: Sequence[int]) -> list[list[str]]:
        import pyarrow as pa

        chosen = self._table.select(self.other_columns()).take(pa.array(rows, pa.int64()))
        columns = [texts_of(column).to_pylist() for column in chosen.columns]
        return [[column[i] for column in columns] for i in range(len(rows))]

    def is_same_but_for_text(self, other: MetaTable) -> bool:
        """As for all tables; two Parquet tables must also have the same column types."""
        if not isinstance(other, _ParquetTable):
            return super().is_same_but_for_text(other)
        own, others = (
            table._table.select([name for name in table._column_names() if name != TEXT_COLUMN])
            for table in (self, other)
        )
        return bool(own.equals(others))

    def _column_names(self) -> list[str]:
        return list(self._table.column_names)

    def _columns_except_text(self) -> Iterator[list[str]]:
        return (texts_of(self._table.column(name)).to_pylist() for name in self._column_names() if name != TEXT_COLUMN)

    def _with_texts(self, texts: Sequence[str]):  # type: ignore[no-untyped-def]  # pyarrow has no types
        import pyarrow as pa

        names, column = self._column_names(), pa.array(texts, pa.string())
        if TEXT_COLUMN in names:
            return self._table.set_column(names.index(TEXT_COLUMN), TEXT_COLUMN, column)
        return self._table.append_column(TEXT_COLUMN, column)

    def _write_csv(self, file: Path, texts: Sequence[str], compressed: bool) -> None:
        table = self._with_texts(texts)
        cells = pd.DataFrame({name: texts_of(table.column(name)).to_pylist() for name in table.column_names}, dtype=str)
        write_csv(cells, file, PLAIN_CSV, compressed)

    def _write_parquet(self, file: Path, texts: Sequence[str]) -> None:
        import pyarrow.parquet as pq

        pq.write_table(self._with_texts(texts), file)


def _check_columns(path: Path, names: Sequence[object]) -> None:
    columns = [str(name) for name in names]
    for name in (PATH_COLUMN, TEXT_COLUMN):
        if columns.count(name) > 1:
            raise UsageError(f"meta file {path} has {columns.count(name)} columns named '{name}'; keep one")
    if PATH_COLUMN not in columns:
        similar = [name for name in columns if name.strip(" \t\ufeff\u00a0\"'").lower() == PATH_COLUMN]
        fix = f"; rename {similar[0]!r} to '{PATH_COLUMN}'" if similar else ""
        raise UsageError(f"meta file {path} has no '{PATH_COLUMN}' column; its columns: {column_list(columns)}{fix}")


def match_occurrences(
    paths: Sequence[str], earlier_paths: Sequence[str], earlier_texts: Sequence[str]
) -> dict[int, str]:
    """The non-empty earlier captions by row of `paths`. The n-th occurrence of a path matches its n-th earlier one."""
    occurrence = _occurrence_counter()
    captions = {(path, occurrence(path)): text for path, text in zip(earlier_paths, earlier_texts, strict=True)}
    occurrence = _occurrence_counter()
    matched = ((row, captions.get((path, occurrence(path)))) for row, path in enumerate(paths))
    return {row: text for row, text in matched if text and text.strip()}


def _occurrence_counter() -> Callable[[str], int]:
    """A function that returns how many times it was called with the same path before."""
    last: dict[str, int] = {}

    def occurrence(path: str) -> int:
        last[path] = last.get(path, -1) + 1
        return last[path]

    return occurrence
