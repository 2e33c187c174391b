"""Parquet files, and the text form of their cells. Knows no meaning of a column."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..process.errors import UsageError
from .csv_cells import NUL, NUL_STANDS_AS


def read_parquet(path: Path):  # type: ignore[no-untyped-def]  # pyarrow has no types
    """The table in one file.

    Raises:
        UsageError: unreadable, or columns of the same name.
    """
    import pyarrow.parquet as pq

    read_schema(path)
    try:
        # read_table would add a column for each folder named like day=1.
        with pq.ParquetFile(path) as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_schema(path: Path):  # type: ignore[no-untyped-def]
    """Names and types of the columns; raises as `read_parquet` does."""
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    check_names(path, schema.names)
    return schema


def check_names(path: Path, names: list[str]) -> None:
    """Raises UsageError if a Parquet file `path` can't have columns of these names."""
    repeated = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if repeated is not None:
        raise UsageError(
            f"table {path}: Parquet can't have {names.count(repeated)} columns named '{repeated}'; rename them"
        )


def texts_of(column: Any) -> Any:
    """The text form of an Arrow column, as a column of strings.

    Null is empty. Strings are themselves, but for NUL characters, which CSV does not have: U+FFFD stands for them.
    Numbers, dates and times are as Arrow writes them, with `.0` behind whole numbers in a column of floating point
    numbers; truth values are `True` and `False`; bytes are in hexadecimal; lists and structs are JSON; what Arrow can't
    write is as Python writes it.
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
        texts = pa.chunked_array([pa.array(map(_json, column.to_pylist()), pa.string())])
    else:
        texts = _cast_texts(column)
    if types.is_floating(kind):
        is_whole = pc.match_substring_regex(texts, r"^-?\d+$")
        texts = pc.if_else(is_whole, pc.binary_join_element_wise(texts, ".0", ""), texts)
    return pc.replace_substring(pc.fill_null(texts, ""), NUL, NUL_STANDS_AS)


def _cast_texts(column: Any) -> Any:
    import pyarrow as pa

    if not isinstance(column.type, pa.BaseExtensionType):
        try:
            return column.cast(pa.large_string() if pa.types.is_large_string(column.type) else pa.string())
        except pa.ArrowException:  # a time zone that is an offset
            pass
    texts = [None if value is None else str(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])


def _json(value: Any) -> str | None:
    if value is None:
        return None
    return value.hex() if isinstance(value, bytes) else json.dumps(_finite(value), ensure_ascii=False, default=_plain)


def _finite(value: Any) -> Any:
    """`value` with null for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"table {path} can't be read as Parquet: {' '.join(str(error).split())}")
