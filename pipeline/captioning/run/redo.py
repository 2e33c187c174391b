"""`--redo`: the rows whose existing captions have certain marks, so that they are made again.

Knows nothing about plans: a plan regards these captions as missing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from ..meta.marks import MarkedCaptions, read_truncated
from ..meta.names import outcomes_path
from ..meta.table import MetaTable
from .options import JobOptions

logger = logging.getLogger(__name__)


class MarkedRows:
    """Finds the rows of a table whose captions have one of the marks of `--redo`. An `earlier_captions.Redo`.

    The answer depends only on the table and the outcomes file next to it. A run replaces both at its end. If it is
    killed before, the next run finds the same rows; if it is killed between the two, its captions are in the journals,
    which take precedence (`planning.leader_plan`).
    """

    def __init__(self, options: JobOptions) -> None:
        self._marks = options.redo
        self._short_words = options.short_words
        self._truncated: dict[Path, Mapping[str, Mapping[int, bool]]] = {}

    def __call__(self, table: MetaTable, path: Path, column: str) -> Collection[int]:
        """The rows of `table`, which was read from `path`, whose caption in `column` has one of the marks."""
        cells = table.texts(column)
        if not self._marks or cells is None:
            return ()
        logger.info("looking for captions with the marks %s in column %r of %s", ", ".join(self._marks), column, path)
        truncated = self._truncated_of(table, path).get(column, {})
        return MarkedCaptions(cells, truncated, self._short_words).rows_with(self._marks)

    def _truncated_of(self, table: MetaTable, path: Path) -> Mapping[str, Mapping[int, bool]]:
        """The outcomes file is read once for all columns, and only if the marks depend on it."""
        if "unfinished" not in self._marks:
            return {}
        if path not in self._truncated:
            self._truncated[path] = read_truncated(outcomes_path(path), table.paths, table.ranges)
        return self._truncated[path]
