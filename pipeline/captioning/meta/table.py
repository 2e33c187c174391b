"""The meta table: CSV or Parquet in, the same table with captions in `text` out.

Every other column, the order of rows and of columns come through unchanged: CSV cells are kept as
the strings they are, Parquet columns are not touched. Knows nothing of workers or models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ..errors import UsageError
from .files import atomic_write

PATH_COLUMN = "path"
TEXT_COLUMN = "text"


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


class MetaTable(ABC):
    """A meta table in memory. Rows are numbered from 0 in file order."""

    paths: list[str]
    """The `path` of every row; empty where it is missing."""

    @abstractmethod
    def texts(self) -> list[str] | None:
        """The `text` of every row (empty where missing), or None without such a column."""

    @abstractmethod
    def other_columns(self) -> list[str]:
        """The names of all columns but `path` and `text`, in order."""

    @abstractmethod
    def other_cells(self, rows: Sequence[int]) -> list[list[str]]:
        """What these columns hold in each of `rows`, as text; empty where missing."""

    @abstractmethod
    def write(self, output: Path, captions: Mapping[int, str]) -> None:
        """Write the table to `output` with `captions` (by row) in `text`; rows without one get ''."""

    @abstractmethod
    def is_same_but_for_text(self, other: MetaTable) -> bool:
        """Whether all other columns, their order and all rows are the same."""

    @staticmethod
    def read(path: Path) -> MetaTable:
        """Read a table; its kind goes by the suffix.

        Raises:
            UsageError: missing, empty or unreadable file, or no `path` column.
        """
        if not path.exists():
            raise UsageError(f"meta file {path} does not exist")
        if not path.is_file():
            raise UsageError(f"meta file {path} is not a file")
        return _ParquetTable(path) if is_parquet(path) else _CsvTable(path)

    @staticmethod
    def check(path: Path) -> None:
        """Read no more than the header, for early complaints; raises as `read` does."""
        if not path.is_file():
            MetaTable.read(path)
        elif is_parquet(path):
            _check_columns(path, _parquet_schema(path).names)
        else:
            _check_columns(path, read_csv_cells(path, nrows=1).iloc[0].tolist())


class _CsvTable(MetaTable):
    def __init__(self, path: Path) -> None:
        # The header is read as a row, so that pandas neither renames nor reorders anything.
        cells = read_csv_cells(path)
        self._header = [str(name) for name in cells.iloc[0]]
        _check_columns(path, self._header)
        self._cells = cells.iloc[1:].reset_index(drop=True)
        self.paths = self._column(PATH_COLUMN)

    def _column(self, name: str) -> list[str]:
        return self._cells[self._header.index(name)].tolist()

    def texts(self) -> list[str] | None:
        return self._column(TEXT_COLUMN) if TEXT_COLUMN in self._header else None

    def other_columns(self) -> list[str]:
        return [name for name in self._header if name not in (PATH_COLUMN, TEXT_COLUMN)]

    def other_cells(self, rows: Sequence[int]) -> list[list[str]]:
        places = [i for i, name in enumerate(self._header) if name not in (PATH_COLUMN, TEXT_COLUMN)]
        cells: list[list[str]] = self._cells.iloc[list(rows), places].to_numpy().tolist()
        return cells

    def write(self, output: Path, captions: Mapping[int, str]) -> None:
        header, cells = list(self._header), self._cells.copy(deep=False)
        if TEXT_COLUMN not in header:
            header.append(TEXT_COLUMN)
        cells[header.index(TEXT_COLUMN)] = [captions.get(row, "") for row in range(len(cells))]
        cells.columns = pd.Index(header)
        with atomic_write(output, keep_backup=True) as temporary:
            write_csv(cells, temporary)

    def is_same_but_for_text(self, other: MetaTable) -> bool:
        if not isinstance(other, _CsvTable):
            return False
        names = [name for name in self._header if name != TEXT_COLUMN]
        if names != [name for name in other._header if name != TEXT_COLUMN]:
            return False
        own, others = (
            table._cells[[i for i, name in enumerate(table._header) if name != TEXT_COLUMN]].to_numpy()
            for table in (self, other)
        )
        return bool(own.shape == others.shape and (own == others).all())


class _ParquetTable(MetaTable):
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        _check_columns(path, _parquet_schema(path).names)
        try:
            self._table = pq.read_table(path)
        except (OSError, ValueError) as error:
            raise UsageError(f"meta file {path} can't be read as Parquet: {error}") from error
        self.paths = self._column(PATH_COLUMN)

    def _column(self, name: str) -> list[str]:
        return _as_texts(self._table.column(name))

    def texts(self) -> list[str] | None:
        return self._column(TEXT_COLUMN) if TEXT_COLUMN in self._table.column_names else None

    def other_columns(self) -> list[str]:
        return [name for name in self._table.column_names if name not in (PATH_COLUMN, TEXT_COLUMN)]

    def other_cells(self, rows: Sequence[int]) -> list[list[str]]:
        import pyarrow as pa

        chosen = self._table.select(self.other_columns()).take(pa.array(rows, pa.int64()))
        columns = [_as_texts(column) for column in chosen.columns]
        return [[column[i] for column in columns] for i in range(len(rows))]

    def write(self, output: Path, captions: Mapping[int, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts = pa.array([captions.get(row, "") for row in range(len(self.paths))], pa.string())
        names = self._table.column_names
        if TEXT_COLUMN in names:
            table = self._table.set_column(names.index(TEXT_COLUMN), TEXT_COLUMN, texts)
        else:
            table = self._table.append_column(TEXT_COLUMN, texts)
        with atomic_write(output, keep_backup=True) as temporary:
            pq.write_table(table, temporary)

    def is_same_but_for_text(self, other: MetaTable) -> bool:
        if not isinstance(other, _ParquetTable):
            return False
        own, others = (
            table._table.select([name for name in table._table.column_names if name != TEXT_COLUMN])
            for table in (self, other)
        )
        return bool(own.equals(others))


def read_csv_cells(path: Path, nrows: int | None = None, dtype: Any = str) -> pd.DataFrame:
    """All cells of a CSV file as strings, the header as its first row.

    Raises:
        UsageError: empty, not UTF-8, or rows of different lengths.
    """
    try:
        # pandas unquotes a leading BOM wrongly on its own; utf-8-sig takes it off.
        return pd.read_csv(path, header=None, dtype=dtype, na_filter=False, nrows=nrows, encoding="utf-8-sig")
    except pd.errors.EmptyDataError as error:
        raise UsageError(f"meta file {path} is empty; it needs a header with a '{PATH_COLUMN}' column") from error
    except (pd.errors.ParserError, UnicodeDecodeError, OSError) as error:
        cause = " ".join(str(error).split())
        raise UsageError(f"meta file {path} can't be read as CSV (UTF-8): {cause}") from error


def write_csv(frame: pd.DataFrame, file: Path) -> None:
    # The csv module before Python 3.13 leaves a lone carriage return unquoted, which splits the row.
    has_return = any(_has_return(frame.iloc[:, i]) for i in range(frame.shape[1]))
    quoting: Literal[0, 1] = 1 if has_return else 0  # csv.QUOTE_ALL, csv.QUOTE_MINIMAL
    frame.to_csv(file, index=False, lineterminator="\n", encoding="utf-8", quoting=quoting)


def _has_return(column: pd.Series) -> bool:
    return pd.api.types.is_string_dtype(column) and bool(column.str.contains("\r", regex=False).any())


def _parquet_schema(path: Path):  # type: ignore[no-untyped-def]  # pyarrow has no types
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"meta file {path} can't be read as Parquet: {error}") from error


def _as_texts(column: Any) -> list[str]:
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _check_columns(path: Path, names: Sequence[object]) -> None:
    columns = [str(name) for name in names]
    for name in (PATH_COLUMN, TEXT_COLUMN):
        if columns.count(name) > 1:
            raise UsageError(f"meta file {path} has {columns.count(name)} columns named '{name}'; keep one")
    if PATH_COLUMN not in columns:
        raise UsageError(f"meta file {path} has no '{PATH_COLUMN}' column; its columns: {', '.join(columns)}")


def match_occurrences(
    paths: Sequence[str], earlier_paths: Sequence[str], earlier_texts: Sequence[str]
) -> dict[int, str]:
    """Non-empty earlier captions by row of `paths`, matched by path and its n-th occurrence."""
    number = _occurrence_counter()
    captions = {(path, number(path)): text for path, text in zip(earlier_paths, earlier_texts, strict=True)}
    number = _occurrence_counter()
    matched = ((row, captions.get((path, number(path)))) for row, path in enumerate(paths))
    return {row: text for row, text in matched if text and text.strip()}


def _occurrence_counter() -> Callable[[str], int]:
    seen: dict[str, int] = {}

    def number(path: str) -> int:
        seen[path] = seen.get(path, -1) + 1
        return seen[path]

    return number
