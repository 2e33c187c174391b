"""Operations that filter and sort rows."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from pipeline.captioning.meta.names import column_list
from pipeline.captioning.process.errors import UsageError

from .operation import Settings
from .ranges import compared_keys
from .tables import STRING, as_numbers, as_text, expand, read_tables

_KEY = "\0key"
"""Name of a column that no table has, because names can't contain NUL."""
RowFilter = Callable[[pd.DataFrame, float, Settings], pd.DataFrame]


def difference(frame: pd.DataFrame, other: str, settings: Settings) -> pd.DataFrame:
    """The rows that are not done in the table `other`."""
    keys, _, done_keys = _done_rows(frame, other, settings)
    return frame[~keys.isin(done_keys)]


def intersection(frame: pd.DataFrame, other: str, settings: Settings) -> pd.DataFrame:
    """The rows that are done in the table `other`, with the columns that only `other` has."""
    keys, done, done_keys = _done_rows(frame, other, settings)
    first = ~done_keys.duplicated()
    new = done.loc[first, [name for name in done if name not in frame]].assign(**{_KEY: done_keys[first]})
    return frame.assign(**{_KEY: keys}).merge(new, on=_KEY, how="inner").drop(columns=_KEY)


def _done_rows(frame: pd.DataFrame, pattern: str, settings: Settings) -> tuple[pd.Series, pd.DataFrame, pd.Series]:
    """What identifies the rows of `frame`; the rows of a table that are done, and what identifies them.

    A row is done if it has a caption; all rows are done if the table has no column of captions.
    """
    other = read_tables(expand([pattern]))
    if settings.key not in other:
        raise UsageError(f"table {pattern} has no column '{settings.key}'; its columns: {column_list(other.columns)}")
    keys, other_keys = compared_keys(frame, other, pattern, settings)
    if settings.column not in other:
        print(f"{pattern} has no column '{settings.column}' (--column), so all its rows count as done")
        return keys, other, other_keys
    done = as_text(other[settings.column]).str.strip() != ""
    return keys, other[done], other_keys[done]


def at_least(column: str) -> RowFilter:
    """A filter that keeps rows whose number in `column` is at least its value. Drops rows without a number."""
    return lambda frame, minimum, _: frame[as_numbers(frame[column]) >= minimum]


def at_most(column: str, keep_missing: bool = False) -> RowFilter:
    """A filter that keeps rows whose number in `column` is at most its value.

    keep_missing: keep rows without a number; otherwise the filter drops them.
    """

    def keep(frame: pd.DataFrame, maximum: float, _: Settings) -> pd.DataFrame:
        numbers = as_numbers(frame[column])
        return frame[(numbers <= maximum) | (numbers.isna() & keep_missing)]

    return keep


def pixels_at_most(frame: pd.DataFrame, maximum: float, _: Settings) -> pd.DataFrame:
    return frame[as_numbers(frame["height"]) * as_numbers(frame["width"]) <= maximum]


def sort_by(ascending: bool) -> Callable[[pd.DataFrame, str, Settings], pd.DataFrame]:
    """An operation that sorts by a column: as numbers if all its cells are numbers, otherwise as text.

    Rows with equal cells keep their order. Empty cells are last.
    """

    def sort(frame: pd.DataFrame, column: str, _: Settings) -> pd.DataFrame:
        if column not in frame:
            raise UsageError(
                f"can't sort by '{column}': no such column; the table's columns: {column_list(frame.columns)}"
            )
        cells = frame[column]
        if cells.dtype == STRING:
            numbers = as_numbers(cells)
            texts = cells.where(cells != "")
            cells = numbers if numbers.notna().sum() == texts.notna().sum() else texts
        return frame.loc[cells.sort_values(ascending=ascending, kind="stable", na_position="last").index]

    return sort


def shuffle(frame: pd.DataFrame, _: None, settings: Settings) -> pd.DataFrame:
    return frame.sample(frac=1, random_state=settings.seed)


def sample(frame: pd.DataFrame, count: int, settings: Settings) -> pd.DataFrame:
    """`count` random rows without repetition, in their present order; all rows if there are fewer."""
    return frame.sample(n=min(count, len(frame)), random_state=settings.seed).sort_index()


def head(frame: pd.DataFrame, count: int, _: Settings) -> pd.DataFrame:
    return frame.head(count)
