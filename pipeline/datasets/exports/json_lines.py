"""Export to JSON Lines: one object for each row, with chosen columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.captioning.meta.files import atomic_write
from pipeline.captioning.meta.results import as_json

from .rows import CaptionedTable


def write_json_lines(table: CaptionedTable, columns: Sequence[str], output: Path) -> int:
    """Write the captioned rows of `table` to `output`; returns their number. An earlier file is kept as `.bak`.

    columns: the keys of each object, in this order.

    Raises:
        UsageError: a row can't be read; `output` is unchanged.
        RunError: no row has a caption, or `output` can't be written.
    """
    written = 0
    with atomic_write(output, keep_backup=True) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in table.captioned_rows(columns):
            file.write(as_json(dict(zip(columns, row.cells, strict=True))) + "\n")
            written += 1
        table.check_exported(written)
    return written
