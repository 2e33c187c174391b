"""Puts the captions of tables into the database, and removes them. Knows nothing about queries.

A table is identified by its resolved path. Each change of a table is one transaction.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.captioning.process.errors import UsageError
from pipeline.datasets.exports.rows import CaptionedTable

from .database import path_of, stored_path, transaction
from .documents import Document, documents

_CHUNK_DOCUMENTS = 4096


@dataclass(frozen=True)
class IndexedTable:
    """A table in the database.

    path: resolved. captions: names of the columns of captions.
    documents: captions in the database. without_caption: rows that have none and were left out.
    indexed: seconds since 1970.
    """

    path: str
    captions: tuple[str, ...]
    documents: int
    without_caption: int
    indexed: float


def indexed_tables(connection: sqlite3.Connection) -> list[IndexedTable]:
    """The tables in the database, in the order in which they were first indexed."""
    rows = connection.execute("SELECT path, captions, documents, without_caption, indexed FROM tables ORDER BY id")
    return [IndexedTable(path_of(path), tuple(json.loads(names)), *others) for path, names, *others in rows]


def index_table(connection: sqlite3.Connection, table: CaptionedTable) -> IndexedTable:
    """Put the captions of a table into the database, in place of those that it has of this table.

    Needs memory for a few thousand captions, and SQLite's cache. If it fails or the process dies, the database keeps
    what it had.

    Raises:
        UsageError: the table can't be read.
    """
    path = str(table.path.resolve())
    with transaction(connection):
        number = _remove(connection, path)
        (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM documents").fetchone()
        if number is None:
            (number,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM tables").fetchone()
        count = _insert(connection, number, last + 1, documents(table))
        made = IndexedTable(path, table.captions, count, table.without_caption, time.time())
        connection.execute(
            "INSERT OR REPLACE INTO tables VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, stored_path(path), json.dumps(table.captions), count, table.without_caption, last + 1,
             last + count, made.indexed),
        )  # fmt: skip
    return made


def remove_table(connection: sqlite3.Connection, table: Path) -> int:
    """Remove a table; returns the number of captions. The file need not exist any more.

    Raises:
        UsageError: the table is not in the database.
    """
    path = str(table.resolve())
    with transaction(connection):
        (count,) = connection.execute(
            "SELECT coalesce(sum(documents), 0) FROM tables WHERE path = ?", (stored_path(path),)
        ).fetchone()
        if _remove(connection, path) is None:
            raise UsageError(f"table {path} is not in the database; `python -m pipeline.search tables` lists what is")
        connection.execute("DELETE FROM tables WHERE path = ?", (stored_path(path),))
    return int(count)


def _remove(connection: sqlite3.Connection, path: str) -> int | None:
    """Remove the documents of a table; returns the number of the table, or None if it is not in the database."""
    found = connection.execute(
        "SELECT id, first_id, last_id FROM tables WHERE path = ?", (stored_path(path),)
    ).fetchone()
    if found is None:
        return None
    number, first, last = found
    others = connection.execute("SELECT count(*) FROM tables WHERE documents > 0 AND id <> ?", (number,)).fetchone()
    if others == (0,):
        connection.execute("INSERT INTO captions(captions) VALUES ('delete-all')")
        connection.execute("DELETE FROM documents")
        return int(number)
    # FTS5 has to be told the text: it has none of its own.
    connection.execute(
        "INSERT INTO captions(captions, rowid, text) SELECT 'delete', id, text FROM documents WHERE id BETWEEN ? AND ?",
        (first, last),
    )
    connection.execute("DELETE FROM documents WHERE id BETWEEN ? AND ?", (first, last))
    return int(number)


def _insert(connection: sqlite3.Connection, table: int, first: int, found: Iterator[Document]) -> int:
    """Insert documents, numbered from `first`; returns their number."""
    numbered = enumerate(tqdm(found, unit="caption", unit_scale=True, disable=None), first)
    count = 0
    while chunk := list(itertools.islice(numbered, _CHUNK_DOCUMENTS)):
        connection.executemany(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(number, table, *_cells(document)) for number, document in chunk],
        )
        connection.executemany(
            "INSERT INTO captions(rowid, text) VALUES (?, ?)", [(number, document.text) for number, document in chunk]
        )
        count += len(chunk)
    return count


def _cells(document: Document) -> tuple[Any, ...]:
    part = document.range
    times = (None, None) if part is None else (part.start, part.end)
    return document.row, stored_path(document.path), *times, document.column, document.outcome, document.text


def optimize(connection: sqlite3.Connection) -> None:
    """Merge the parts of the index into one, which makes queries faster; 5 s for a million captions of 100 words."""
    with transaction(connection):
        connection.execute("INSERT INTO captions(captions) VALUES ('optimize')")
