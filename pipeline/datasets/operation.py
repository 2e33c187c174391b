"""What an operation on a meta table is; `catalogue` lists them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.captioning.meta.names import column_list
from pipeline.captioning.process.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """What several operations share.

    key: the column by which tables are compared.
    seed: for shuffling and sampling.
    workers: processes or threads that read files.
    timeout: seconds for looking at one file.
    """

    key: str = "path"
    seed: int = 42
    workers: int = 4
    timeout: float = 60.0


@dataclass(frozen=True)
class Operation:
    """One operation: a row of the catalogue.

    name: of the flag, without dashes; `aliases` are other tools' names for it. Underscores do as well as hyphens.
    needs: columns that the table must have; `key` stands for the column of `--key`.
    makes: columns that it adds or fills; the hint for operations that miss one.
    function: from a frame, the flag's value and the settings to a frame; may not change its argument.
    summary, example: for help and documentation.
    value: type of the flag's value, or None for a flag without one; `metavar` its name in the help.
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
        """The operation's result.

        Raises:
            UsageError: a column is missing; names the operation of `catalogue` that makes it.
        """
        for name in (settings.key if name == "key" else name for name in self.needs):
            if name not in frame:
                makers = [other.flag for other in catalogue if name in other.makes]
                hint = f" ({' or '.join(makers)} makes it)" if makers else ""
                raise UsageError(
                    f"{self.flag} needs a column '{name}'{hint}; the table's columns: {column_list(frame.columns)}"
                )
        return self.function(frame, value, settings)
