"""Read the meta table from CSV or Parquet, and write it with captions in the columns that receive them.

All other columns, the order of rows and the order of columns stay unchanged. CSV cells are strings; Parquet columns
keep their types. Knows nothing about workers and models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..clips.time_range import TimeRange
from ..process.errors import UsageError
from .csv_cells import NUL, NUL_REPLACEMENT, PLAIN_CSV, csv_style, read_csv_cells, read_header, write_csv
from .files import atomic_write
from .names import PATH_COLUMN, RANGE_COLUMNS, TEXT_COLUMN, check_is_file, column_list, is_gzip, is_parquet
from .parquet_cells import check_names, read_parquet, read_parquet_chunks, read_schema, texts_of
from .ranges import NO_RANGES, Ranges, read_ranges, row_keys

_NO_CELLS: Mapping[str, str] = {}
_CHUNK_ROWS = 65536


class MetaTable(ABC):
    """A meta table in memory. Rows are numbered from 0 in file order."""

    paths: list[str]
    """The `path` of every row; '' where it is missing."""
    columns: list[str]
    """The names of all columns, in order."""
    ranges: Ranges = NO_RANGES
    """The part of its file that each row is; None for the whole file. Empty if no row is a part."""
    range_columns: Sequence[str] = ()
    """The columns of the table that say which part of its file a row is; none if they are ignored."""

    def range_of(self, row: int) -> TimeRange | None:
        """The part of its file that a row is; None for the whole file."""
        return self.ranges[row] if self.ranges else None

    @property
    def keys(self) -> Sequence[Hashable]:
        """For each row, what identifies it except its number: path and range."""
        return row_keys(self.paths, self.ranges)

    def texts(self, column: str = TEXT_COLUMN) -> list[str] | None:
        """The cells of a column in their text form ('' where missing); None if the table has no such column."""
        return self._column(column) if column in self.columns else None

    def cells(self, columns: Sequence[str]) -> list[list[str]]:
        """For each of `columns`, the text form of its cells; '' where missing. The table has all these columns."""
        return [self._column(column) for column in columns]

    def other_columns(self, captions: Collection[str] = (TEXT_COLUMN,)) -> list[str]:
        """The names of all columns except `path` and those of `captions`, in order."""
        return [name for name in self.columns if name != PATH_COLUMN and name not in captions]

    @abstractmethod
    def other_cells(self, rows: Sequence[int], captions: Collection[str] = (TEXT_COLUMN,)) -> list[list[str]]:
        """For each of `rows`, the text form of its cells in `other_columns`; '' where missing."""

    def write(self, output: Path, captions: Mapping[str, Sequence[str]]) -> None:
        """Write the table to `output` with `captions`.

        captions: by column, one for each row ('' for none). A column that the table has is replaced in its place; the
            others follow the columns of the table, in the order of `captions`.

        The suffix of `output` selects the format. docs/tables.md describes how cells are converted between formats.

        Raises:
            UsageError: this format can't have columns with these names; `check` finds this earlier.
            RunError: the file can't be written.
        """
        texts = {name: [text.replace(NUL, NUL_REPLACEMENT) for text in column] for name, column in captions.items()}
        if is_parquet(output):
            check_names(output, self.columns)
        with atomic_write(output, keep_backup=True) as temporary:
            if is_parquet(output):
                self._write_parquet(temporary, texts)
            else:
                self._write_csv(temporary, texts, is_gzip(output))

    def is_same_but_for(self, columns: Collection[str], other: MetaTable) -> bool:
        """Whether both tables have the same rows and the same columns in the same order, without `columns`.

        Tables of different formats are compared by the text form of their cells.
        """
        own, others = ([name for name in table.columns if name not in columns] for table in (self, other))
        if own != others or len(self.paths) != len(other.paths):
            return False
        pairs = zip(self._columns_except(columns), other._columns_except(columns), strict=True)
        return all(own_cells == other_cells for own_cells, other_cells in pairs)

    @abstractmethod
    def _column(self, name: str) -> list[str]:
        """The cells of the first column with this name, in their text form."""

    @abstractmethod
    def _columns_except(self, columns: Collection[str]) -> Iterator[list[str]]:
        """The cells of all columns except `columns`, in order, in their text form."""

    @abstractmethod
    def _write_csv(self, file: Path, texts: Mapping[str, Sequence[str]], compressed: bool) -> None: ...

    @abstractmethod
    def _write_parquet(self, file: Path, texts: Mapping[str, Sequence[str]]) -> None: ...

    @staticmethod
    def read(
        path: Path,
        captions: Sequence[str] = (TEXT_COLUMN,),
        cells: Mapping[str, str] = _NO_CELLS,
        whole_files: bool = False,
    ) -> MetaTable:
        """Read a table. The suffix selects the format.

        captions: columns that receive captions. cells: columns that questions need, each with its use, for messages.
        whole_files: every row is a whole file; the columns `start` and `end` mean something else.

        Raises:
            UsageError: the file is missing, empty or unreadable; it does not have exactly one column `path`, exactly
                one column for each of `cells`, and at most one for each of `captions`; or, unless `whole_files`, it has
                several columns `start` or `end`, or a cell there that is neither blank nor a number.
        """
        _check_header(path, None, captions, cells, whole_files)
        table = _ParquetTable(path) if is_parquet(path) else CsvTable(path)
        if not whole_files:
            table.range_columns = [name for name in RANGE_COLUMNS if name in table.columns]
            table.ranges = _ranges(path, dict(zip(table.range_columns, table.cells(table.range_columns), strict=True)))
        return table

    @staticmethod
    def check(
        path: Path,
        output: Path | None = None,
        captions: Sequence[str] = (TEXT_COLUMN,),
        cells: Mapping[str, str] = _NO_CELLS,
        whole_files: bool = False,
    ) -> bool:
        """Read the header and the columns `start` and `end` only, to find usage errors early.

        output: the file to which the table will be written. captions, cells, whole_files: as for `read`.

        Returns whether rows are parts of their files.

        Raises:
            UsageError: as `read`, as far as header, `start` and `end` show it; and as `write`, if `output` is given.
        """
        names = _check_header(path, output, captions, cells, whole_files)
        found = [] if whole_files else [name for name in RANGE_COLUMNS if name in names]
        return bool(found and _ranges(path, _only_columns(path, names, found)))


class CsvTable(MetaTable):
    def __init__(self, path: Path) -> None:
        cells = read_csv_cells(path)
        self.columns = [str(name) for name in cells.iloc[0]]
        self._style = csv_style(path)
        self._cells = cells.iloc[1:].reset_index(drop=True)
        self.paths = self._column(PATH_COLUMN)

    def _column(self, name: str) -> list[str]:
        return self._cells[self.columns.index(name)].tolist()

    def other_cells(self, rows: Sequence[int], captions: Collection[str] = (TEXT_COLUMN,)) -> list[list[str]]:
        positions = [i for i, name in enumerate(self.columns) if name != PATH_COLUMN and name not in captions]
        cells: list[list[str]] = self._cells.iloc[list(rows), positions].to_numpy().tolist()
        return cells

    def _columns_except(self, columns: Collection[str]) -> Iterator[list[str]]:
        return (self._cells[i].tolist() for i, name in enumerate(self.columns) if name not in columns)

    def _with_texts(self, texts: Mapping[str, Sequence[str]]) -> pd.DataFrame:
        header, cells = list(self.columns), self._cells.copy(deep=False)
        for name, column in texts.items():
            if name not in header:
                header.append(name)
            cells[header.index(name)] = column
        cells.columns = pd.Index(header)
        return cells

    def _write_csv(self, file: Path, texts: Mapping[str, Sequence[str]], compressed: bool) -> None:
        write_csv(self._with_texts(texts), file, self._style, compressed)

    def _write_parquet(self, file: Path, texts: Mapping[str, Sequence[str]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        cells = self._with_texts(texts)
        pq.write_table(pa.table({name: pa.array(cells[name], pa.string()) for name in cells}), file)


class _ParquetTable(MetaTable):
    def __init__(self, path: Path) -> None:
        self._table = read_parquet(path)
        self.columns = list(self._table.column_names)
        self.paths = self._column(PATH_COLUMN)

    def _column(self, name: str) -> list[str]:
        texts: list[str] = texts_of(self._table.column(name)).to_pylist()
        return texts

    def other_cells(self, rows: Sequence[int], captions: Collection[str] = (TEXT_COLUMN,)) -> list[list[str]]:
        import pyarrow as pa

        chosen = self._table.select(self.other_columns(captions)).take(pa.array(rows, pa.int64()))
        columns = [texts_of(column).to_pylist() for column in chosen.columns]
        return [[column[i] for column in columns] for i in range(len(rows))]

    def is_same_but_for(self, columns: Collection[str], other: MetaTable) -> bool:
        """As for all tables; two Parquet tables must also have the same column types."""
        if not isinstance(other, _ParquetTable):
            return super().is_same_but_for(columns, other)
        own, others = (
            table._table.select([name for name in table.columns if name not in columns]) for table in (self, other)
        )
        return bool(own.equals(others))

    def _columns_except(self, columns: Collection[str]) -> Iterator[list[str]]:
        return (self._column(name) for name in self.columns if name not in columns)

    def _with_texts(self, texts: Mapping[str, Sequence[str]]):  # type: ignore[no-untyped-def]  # pyarrow has no types
        import pyarrow as pa

        table = self._table
        for name, column in texts.items():
            cells = pa.array(column, pa.string())
            if name in self.columns:
                table = table.set_column(self.columns.index(name), name, cells)
            else:
                table = table.append_column(name, cells)
        return table

    def _write_csv(self, file: Path, texts: Mapping[str, Sequence[str]], compressed: bool) -> None:
        table = self._with_texts(texts)
        cells = pd.DataFrame({name: texts_of(table.column(name)).to_pylist() for name in table.column_names}, dtype=str)
        write_csv(cells, file, PLAIN_CSV, compressed)

    def _write_parquet(self, file: Path, texts: Mapping[str, Sequence[str]]) -> None:
        import pyarrow.parquet as pq

        pq.write_table(self._with_texts(texts), file)


def _check_header(
    path: Path, output: Path | None, captions: Sequence[str], cells: Mapping[str, str], whole_files: bool
) -> list[str]:
    """Check the header, as `MetaTable.check`; returns the names of the columns."""
    check_is_file(path, "meta file")
    names = list(read_schema(path).names if is_parquet(path) else read_header(path))
    _check_columns(path, names, captions, cells)
    for name in () if whole_files else RANGE_COLUMNS:
        if names.count(name) > 1:
            raise UsageError(
                f"meta file {path} has {names.count(name)} columns named '{name}'; keep one, or give --whole_files if "
                "they do not say which part of its file a row is"
            )
    if output is not None and is_parquet(output):
        check_names(output, names)
    return names


def _ranges(path: Path, cells: Mapping[str, Sequence[str]]) -> Ranges:
    return read_ranges(f"meta file {path}", cells)


def _only_columns(path: Path, names: Sequence[str], wanted: Sequence[str]) -> dict[str, list[str]]:
    """The cells of a few columns in their text form. The others are not in memory."""
    if is_parquet(path):
        import pyarrow as pa

        found: dict[str, list[str]] = {name: [] for name in wanted}
        for batch in read_parquet_chunks(path, wanted, _CHUNK_ROWS):
            for name in wanted:
                found[name] += texts_of(pa.chunked_array([batch.column(name)])).to_pylist()
        return found
    positions = {name: names.index(name) for name in wanted}
    cells = read_csv_cells(path, columns=sorted(positions.values()))
    return {name: cells[position].tolist()[1:] for name, position in positions.items()}


def _check_columns(path: Path, columns: Sequence[str], captions: Sequence[str], cells: Mapping[str, str]) -> None:
    for name in dict.fromkeys([PATH_COLUMN, *captions, *cells]):
        if columns.count(name) > 1:
            raise UsageError(f"meta file {path} has {columns.count(name)} columns named '{name}'; keep one")
    if PATH_COLUMN not in columns:
        similar = [name for name in columns if name.strip(" \t\ufeff\u00a0\"'").lower() == PATH_COLUMN]
        fix = f"; rename {similar[0]!r} to '{PATH_COLUMN}'" if similar else ""
        raise UsageError(f"meta file {path} has no '{PATH_COLUMN}' column; its columns: {column_list(columns)}{fix}")
    missing = [f"{column_list([name])} ({use})" for name, use in cells.items() if name not in columns]
    if missing:
        raise UsageError(f"meta file {path} has no column {', '.join(missing)}; its columns: {column_list(columns)}")
