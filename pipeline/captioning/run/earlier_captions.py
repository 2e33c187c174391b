"""The captions that exist before a run: in its earlier output, and in the meta table's own columns.

Knows nothing about journals and workers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..meta.names import TEXT_COLUMN, report_path
from ..meta.ranges import matching_rows
from ..meta.table import MetaTable

Redo: TypeAlias = Callable[[MetaTable, Path, str], Collection[int]]
"""Returns the rows of a table, which was read from a file, whose caption in a column is to be made again (`--redo`)."""
_ASKED = re.compile(rf"{TEXT_COLUMN}(_.+)?", re.DOTALL)


def nothing_marked(table: MetaTable, path: Path, column: str) -> Collection[int]:
    """A `Redo` that keeps all captions."""
    return ()


@dataclass(frozen=True)
class EarlierCaptions:
    """The captions of the earlier output and the texts of the meta table: for each column, by row of the meta table.

    matching: for each row of the meta table, the row of the earlier output; -1 for none. Empty if there is no output.
    """

    table: MetaTable
    meta_path: Path
    earlier: MetaTable | None
    output: Path
    matching: Sequence[int]
    captions: Mapping[str, Mapping[int, str]]
    texts: Mapping[str, Mapping[int, str]]

    @classmethod
    def of(
        cls, table: MetaTable, meta_path: Path, earlier: MetaTable | None, output: Path, columns: Sequence[str]
    ) -> EarlierCaptions:
        """The captions in `columns`. earlier: the table at `output`, if there is one."""
        matching = matching_rows(table.keys, earlier.keys) if earlier is not None else []
        captions = {column: _matching_captions(earlier, matching, column) for column in columns}
        texts = {
            column: {row: text for row, text in enumerate(table.texts(column) or []) if text.strip()}
            for column in columns
        }
        return cls(table, meta_path, earlier, output, matching, captions, texts)

    def kept(self, redo: Redo) -> dict[str, Mapping[int, str]]:
        """The captions that a run with `--skip_if_existing` keeps, for each column.

        Captions of the earlier output take precedence over the table's own texts. If the caption that takes precedence
        is to be made again, the row keeps none in this column.
        """
        kept: dict[str, Mapping[int, str]] = {}
        for column, captions in self.captions.items():
            both = {**self.texts[column], **captions}
            marked = self._marked(column, redo)
            kept[column] = {row: text for row, text in both.items() if row not in marked} if marked else both
        return kept

    def _marked(self, column: str, redo: Redo) -> set[int]:
        """Rows of the meta table whose caption in a column is to be made again."""
        captions, marked = self.captions[column], set[int]()
        if self.earlier is not None and captions:
            marked_there = redo(self.earlier, self.output, column)
            marked |= {row for row in captions if self.matching[row] in marked_there}
        if self.texts[column].keys() - captions.keys():
            marked |= set(redo(self.table, self.meta_path, column)) - captions.keys()
        return marked

    def other_columns(self) -> list[str]:
        """Columns of the earlier output that neither the meta table nor this run has."""
        if self.earlier is None:
            return []
        return [name for name in self.earlier.columns if name not in self.table.columns and name not in self.captions]

    def other_captions(self) -> dict[str, list[str]]:
        """Those of `other_columns` that earlier runs have captioned: for each row of the meta table its text, or ''."""
        if self.earlier is None:
            return {}
        names = self._other_caption_columns()
        cells = self.earlier.cells(names)
        return {
            name: [texts[row] if row >= 0 else "" for row in self.matching]
            for name, texts in zip(names, cells, strict=True)
        }

    def _other_caption_columns(self) -> list[str]:
        """Runs write captions to `text`, to `text_NAME`, and to columns that the report of the output names."""
        others = self.other_columns()
        named = _reported_columns(self.output) if others else set()
        return [name for name in others if name in named or _ASKED.fullmatch(name)]

    def is_output_of(self, kept: Mapping[str, Mapping[int, str]]) -> bool:
        """Whether the earlier output is what a run would write that makes no caption. kept: what it keeps."""
        if self.earlier is None or not self.captions.keys() <= set(self.earlier.columns):
            return False
        if any(kept[column].keys() - captions.keys() for column, captions in self.captions.items()):
            return False  # a text of the meta table is not in the output: the row failed there
        return self.table.is_same_but_for({*self.captions, *self._other_caption_columns()}, self.earlier)


def _reported_columns(output: Path) -> set[str]:
    """The columns of captions of an output, according to its report; none if there is no usable one."""
    try:
        report = json.loads(report_path(output).read_text(encoding="utf-8"))
        return {*report.get("columns", ()), *report.get("kept_columns", ())}
    except (OSError, ValueError, AttributeError, TypeError):
        return set()


def _matching_captions(earlier: MetaTable | None, matching: Sequence[int], column: str) -> dict[int, str]:
    earlier_texts = earlier.texts(column) if earlier is not None else None
    if earlier_texts is None:
        return {}
    found = ((row, earlier_texts[other]) for row, other in enumerate(matching) if other >= 0)
    return {row: text for row, text in found if text.strip()}
