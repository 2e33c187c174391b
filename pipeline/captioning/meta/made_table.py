"""A table that is made of columns in memory, not read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from .csv_cells import PLAIN_CSV
from .names import PATH_COLUMN
from .table import CsvTable


class MadeTable(CsvTable):
    """columns: the cells of each column, `path` among them.

    hidden: cells that questions need, and that are not written.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]], hidden: Mapping[str, Sequence[str]]) -> None:
        self.columns = list(columns)
        self._cells = pd.DataFrame({number: list(cells) for number, cells in enumerate(columns.values())}, dtype=object)
        self._style, self._hidden = PLAIN_CSV, hidden
        self.paths = list(columns[PATH_COLUMN])

    def cells(self, columns: Sequence[str]) -> list[list[str]]:
        return [list(self._hidden[name]) if name in self._hidden else self._column(name) for name in columns]
