"""Read Parquet files, and convert their cells to text. Knows nothing about the meaning of columns."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..process.errors import UsageError
from .csv_cells import NUL, NUL_REPLACEMENT

_BUFFER_BYTES = 1 << 20


def read_parquet(path: Path):  # type: ignore[no-untyped-def]  # pyarrow has no types
    """The table in a file, as a pyarrow.Table.

    Raises:
        UsageError: the file can't be read, or two columns have the same name.
    """
    import pyarrow.parquet as pq

    read_schema(path)
    try:
        # pq.read_table would add a column for each folder with a name like day=1.
        with pq.ParquetFile(path) as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_parquet_chunks(path: Path, columns: Sequence[str], rows: int) -> Iterator[Any]:
    """The chosen columns, as pyarrow.RecordBatch of at most `rows` rows, so that memory is bounded.

    Raises:
        UsageError: as `read_parquet`.
    """
    import pyarrow.parquet as pq

    read_schema(path)
    try:
        # Without a buffer size, the compressed columns of a whole row group are in memory.
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
            yield from file.iter_batches(rows, columns=list(columns), use_threads=False)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_schema(path: Path):  # type: ignore[no-untyped-def]
    """Names and types of the columns, as a pyarrow.Schema.

    Raises:
        UsageError: as `read_parquet`.
    """
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    check_names(path, schema.names)
    return schema


def check_names(path: Path, names: list[str]) -> None:
    """Check that a Parquet file `path` can have columns with these names.

    Raises:
        UsageError: two columns have the same name.
    """
    repeated = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if repeated is not None:
        raise UsageError(
            f"table {path}: Parquet can't have {names.count(repeated)} columns named '{repeated}'; rename them"
        )


def texts_of(column: Any) -> Any:
    """The text form of an Arrow column, as an Arrow column of strings.

    - null: the empty string
    - string: unchanged, except that U+FFFD replaces each NUL character, which CSV can't contain
    - number, date, time: as Arrow writes it; in a floating point column, `.0` is added to whole numbers
    - truth value: `True` or `False`
    - bytes: hexadecimal
    - list, struct, map: JSON
    - all others: as Python writes them
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    binary = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    kind = column.type
    if types.is_boolean(kind):
        texts = pc.if_else(column, "True", "False")
    elif types.is_nested(kind) or any(is_kind(kind) for is_kind in binary):
        texts = pa.chunked_array([pa.array(map(_json_text, column.to_pylist()), pa.string())])
    else:
        texts = _cast_to_text(column)
    if types.is_floating(kind):
        is_whole = pc.match_substring_regex(texts, r"^-?\d+$")
        texts = pc.if_else(is_whole, pc.binary_join_element_wise(texts, ".0", ""), texts)
    return pc.replace_substring(pc.fill_null(texts, ""), NUL, NUL_REPLACEMENT)


def _cast_to_text(column: Any) -> Any:
    import pyarrow as pa

    if not isinstance(column.type, pa.BaseExtensionType):
        try:
            return column.cast(pa.large_string() if pa.types.is_large_string(column.type) else pa.string())
        except pa.ArrowException:  # Arrow can't write times whose time zone is an offset
            pass
    texts = [None if value is None else str(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _json_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(_without_nonfinite(value), ensure_ascii=False, default=_json_default)


def _without_nonfinite(value: Any) -> Any:
    """`value` with None in place of infinite numbers and NaN, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_nonfinite(item) for name, item in value.items()}
    return [_without_nonfinite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _json_default(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"table {path} can't be read as Parquet: {' '.join(str(error).split())}")
