"""Marks of captions that may have to be made again: which of them a caption has. The gallery and `--redo` use them.

Knows nothing about pages and plans.
"""

from __future__ import annotations

import itertools
import logging
import operator
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..clips.time_range import TimeRange
from .names import TEXT_COLUMN
from .outcomes import read_outcomes
from .ranges import range_of_fields
from .repetition import caption_words, has_fewer_words, is_looping

logger = logging.getLogger(__name__)

CAPTION_MARKS = {
    "repeated": "other rows have the same caption",
    "looping": "its caption repeats a phrase several times in a row",
    "short": "its caption has few words",
    "unfinished": "its caption was cut off by --max_new_tokens; if that is unknown: it does not end like a sentence",
}
"""What may be wrong with a caption."""
SHORT_WORDS = 5
"""A caption with fewer words is short, unless a flag gives another number."""
_SENTENCE_END = re.compile(r"""[.!?…。！？।؟][\s"'”’»」』)\]]*$""")  # noqa: RUF001


class MarkedCaptions:
    """The captions of one column, and their marks.

    cells: of all rows.
    truncated: whether the caption of a row was cut off, for the rows for which this is known.
    short_words: a caption with fewer words is short.
    """

    def __init__(self, cells: Sequence[str], truncated: Mapping[int, bool], short_words: int = SHORT_WORDS) -> None:
        self.texts = [cell.strip() for cell in cells]
        """The captions of all rows, without white space at their ends; '' for none."""
        self._truncated = truncated
        self._short_words = short_words
        self._times = Counter(filter(None, self.texts))

    def times(self, row: int) -> int:
        """Number of rows with the same caption, this row included; 0 if it has no caption."""
        return self._times[self.texts[row]]

    def words(self, row: int) -> int:
        """Number of words of a row's caption."""
        return len(caption_words(self.texts[row]))

    def has(self, row: int, mark: str) -> bool:
        """Whether the caption of a row has this mark of CAPTION_MARKS. A row without a caption has none."""
        text = self.texts[row]
        if not text:
            return False
        if mark == "repeated":
            return self._times[text] > 1
        if mark == "looping":
            return is_looping(text)
        if mark == "short":
            return has_fewer_words(text, self._short_words)
        assert mark == "unfinished", mark
        return self._truncated[row] if row in self._truncated else not _SENTENCE_END.search(text)

    def rows_with(self, marks: Collection[str]) -> set[int]:
        """The rows whose captions have at least one of these marks."""
        others = [mark for mark in marks if mark != "unfinished"]
        # The other marks depend on the text alone, and a model may give many rows the same one.
        of_text: dict[str, bool] = {}
        found = set()
        for row, text in enumerate(self.texts):
            if text not in of_text:
                of_text[text] = any(self.has(row, mark) for mark in others)
            if of_text[text] or ("unfinished" in marks and self.has(row, "unfinished")):
                found.add(row)
        return found


def read_truncated(
    path: Path, paths: Sequence[str], ranges: Sequence[TimeRange | None] = ()
) -> dict[str, dict[int, bool]]:
    """Whether captions were cut off, according to an outcomes file: by column and row.

    Skips captions that the run did not make, and rows whose path or range in the table is now a different one. If the
    file does not exist or can't be read, nothing is known; the latter is logged.

    paths: of all rows of the table. ranges: of all rows; empty if no row has one.
    """
    truncated: dict[str, dict[int, bool]] = {}
    try:
        for record in read_outcomes(path):
            row = record["row"]
            if "truncated" not in record or not 0 <= row < len(paths) or paths[row] != record["path"]:
                continue
            if range_of_fields(record) == (ranges[row] if ranges else None):
                of_column = truncated.setdefault(record.get("column", TEXT_COLUMN), {})
                of_column[row] = record["truncated"] is True
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s can't be read: %s", path, error)
        return {}
    return truncated


def outcome_columns(path: Path) -> list[str]:
    """The columns of captions that a run wrote, in order, according to its outcomes file; none if that is unknown."""
    try:
        by_row = itertools.groupby(read_outcomes(path), key=operator.itemgetter("row"))
        _, records = next(by_row, (None, iter(())))
        return [str(record.get("column", TEXT_COLUMN)) for record in records]
    except (OSError, ValueError):  # `read_truncated` logs it
        return []
