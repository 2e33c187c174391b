"""The definition of an operation on a meta table. `catalogue` lists all operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.captioning.meta.names import column_list
from pipeline.captioning.process.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """Settings for the operations that need them.

    key: column by which tables are compared.
    column: column of captions.
    seed: random seed for shuffling and sampling.
    workers: processes or threads that read files.
    timeout: maximum seconds to read the size and length of one file.
    whole_files: every row is a whole file; the columns `start` and `end` mean something else.
    """

    key: str = "path"
    column: str = "text"
    seed: int = 42
    workers: int = 4
    timeout: float = 60.0
    whole_files: bool = False

    def column_of(self, name: str) -> str:
        """The column of the table for which `name` stands in `Operation.needs` and `Operation.makes`."""
        return {"key": self.key, "text": self.column}.get(name, name)


@dataclass(frozen=True)
class Operation:
    """One operation: a row of the catalogue.

    name: name of the flag, without leading dashes. Underscores may replace hyphens.
    needs: columns that the table must have; `key` stands for the column of `--key`, `text` for that of `--column`.
    function: takes a frame, the flag's value and the settings; returns a frame. Must not change its argument.
    summary, example: for the help and the documentation.
    value: type of the flag's value; None for a flag without a value.
    metavar: name of the value in the help.
    aliases: names of the flag in other tools.
    makes: columns that the operation adds or fills. If another operation needs one of them and the table has none, the
        error message names this operation.
    """

    name: str
    needs: tuple[str, ...]
    function: Callable[[pd.DataFrame, Any, Settings], pd.DataFrame]
    summary: str
    example: str
    value: Callable[[str], Any] | None = None
    metavar: str = ""
    aliases: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    def apply(
        self, frame: pd.DataFrame, value: Any, settings: Settings, catalogue: Sequence[Operation]
    ) -> pd.DataFrame:
        """Apply the operation to `frame`.

        Raises:
            UsageError: a column is missing. The message names the operations of `catalogue` that make it.
        """
        for name in map(settings.column_of, self.needs):
            if name not in frame:
                makers = [other.flag for other in catalogue if name in map(settings.column_of, other.makes)]
                hint = f" ({' or '.join(makers)} makes it)" if makers else ""
                raise UsageError(
                    f"{self.flag} needs a column '{name}'{hint}; the table's columns: {column_list(frame.columns)}"
                )
        return self.function(frame, value, settings)
