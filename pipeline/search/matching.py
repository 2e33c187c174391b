"""Matches texts in memory, and makes snippets. Knows nothing about the database.

It uses the tokenizer and the query language of the database, so that the same texts match.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from .fts import TOKENIZER

SNIPPET_WORDS = 24
_OPEN, _CLOSE = "\x01", "\x02"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+")
_MARK = re.compile(f"[{_OPEN}{_CLOSE}]")


@dataclass(frozen=True)
class Snippet:
    """A part of a caption in one line, without control characters.

    marks: begin and end of what matches, as indices of characters in `text`, ascending.
    """

    text: str
    marks: tuple[tuple[int, int], ...]

    def marked(self, begin: str, end: str) -> str:
        """The text with `begin` and `end` around what matches."""
        parts, last = [], 0
        for first, after in self.marks:
            parts += [self.text[last:first], begin, self.text[first:after], end]
            last = after
        return "".join([*parts, self.text[last:]])


def plain_line(text: str) -> str:
    """A text in one line without control characters, which could change the state of a terminal."""
    return _CONTROL.sub(" ", text).strip()


class Matcher:
    """Matches texts with one expression. expression: of `queries.expression_of`."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.execute(f"CREATE VIRTUAL TABLE texts USING fts5(text, tokenize='{TOKENIZER}')")

    def snippets(self, texts: Sequence[str], words: int = SNIPPET_WORDS) -> list[Snippet | None]:
        """A snippet of each text that matches; None for the others. words: most words of a snippet, up to 64."""
        self._connection.execute("DELETE FROM texts")
        self._connection.executemany(
            "INSERT INTO texts(rowid, text) VALUES (?, ?)", [(i, plain_line(text)) for i, text in enumerate(texts)]
        )
        found = self._connection.execute(
            "SELECT rowid, snippet(texts, 0, ?, ?, '…', ?) FROM texts WHERE texts MATCH ?",
            (_OPEN, _CLOSE, words, self._expression),
        )
        snippets: list[Snippet | None] = [None] * len(texts)
        for i, text in found:
            snippets[i] = _snippet(text)
        return snippets

    def highlighted(self, text: str) -> Snippet | None:
        """The whole text with what matches; None if it does not match."""
        self._connection.execute("DELETE FROM texts")
        self._connection.execute("INSERT INTO texts(rowid, text) VALUES (0, ?)", (plain_line(text),))
        found = self._connection.execute(
            "SELECT highlight(texts, 0, ?, ?) FROM texts WHERE texts MATCH ?", (_OPEN, _CLOSE, self._expression)
        ).fetchone()
        return None if found is None else _snippet(found[0])


def _snippet(text: str) -> Snippet:
    marks: list[tuple[int, int]] = []
    begin = 0
    for removed, mark in enumerate(_MARK.finditer(text)):
        if mark[0] == _OPEN:
            begin = mark.start() - removed
        else:
            marks.append((begin, mark.start() - removed))
    return Snippet(_MARK.sub("", text), tuple(marks))
