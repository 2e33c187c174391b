"""Searches the database: ranked hits for an expression. Knows nothing about the syntax of queries and about output."""

from __future__ import annotations

import heapq
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from pipeline.captioning.clips.time_range import TimeRange
from pipeline.captioning.process.errors import RunError

from .database import DatabaseBusy, open_to_read, path_of
from .matching import Matcher, Snippet, plain_line

MAX_RANKED = 20_000
"""Matches that are ranked, unless a flag gives another number: a match takes 2 to 10 microseconds."""
TIMEOUT = 2.5
"""Seconds for a query."""
_PROGRESS_STEPS = 10_000
_CHARACTERS_WITHOUT_MATCH = 200
_Row: TypeAlias = tuple[str, int, str, "int | None", "int | None", str, str, str]
"""Table, row, path, start, end, column, outcome and text of a document."""


@dataclass(frozen=True)
class Hit:
    """A caption that matches.

    rank: from 1. score: bm25; the larger, the better, comparable within one answer only.
    table: resolved path of the table. row, path, range, column, outcome, text: as in `documents.Document`.
    """

    rank: int
    score: float
    table: str
    row: int
    path: str
    range: TimeRange | None
    column: str
    outcome: str
    text: str
    snippet: Snippet


@dataclass(frozen=True)
class Found:
    """The answer to a query.

    hits: best first; of equal scores the one that was indexed first.
    total: number of captions that match.
    ranked: how many of them were ranked, in the order in which they were indexed. The hits are the best of these.
    captions: number of captions in the database.
    """

    hits: tuple[Hit, ...]
    total: int
    ranked: int
    captions: int


def find(
    database: Path,
    expression: str,
    limit: int = 20,
    offset: int = 0,
    max_ranked: int = MAX_RANKED,
    timeout: float = TIMEOUT,
) -> Found:
    """The best hits.

    expression: of `queries.expression_of`.
    limit: most hits. offset: number of better hits that are left out.
    max_ranked: most matches that are ranked.
    timeout: seconds. Another process that writes is waited for half of them at most.

    Raises:
        UsageError: there is no such database.
        DatabaseBusy: another process is still writing to it.
        RunError: it can't be read, or the time is over.
    """
    # Some loops inside FTS5 can't be interrupted. So the query has a thread, which is left alone when the time is over.
    done: list[Found | BaseException] = []
    deadline = time.monotonic() + timeout

    def run() -> None:
        try:
            with open_to_read(database, timeout / 2) as connection:
                connection.set_progress_handler(lambda: time.monotonic() > deadline, _PROGRESS_STEPS)
                connection.execute("BEGIN")  # all statements see the same state
                done.append(_find(connection, expression, limit, offset, max_ranked))
        except BaseException as error:  # raised below
            done.append(error)

    thread = threading.Thread(target=run, name="query", daemon=True)
    thread.start()
    thread.join(timeout)
    failed = bool(done) and isinstance(done[0], RunError) and not isinstance(done[0], DatabaseBusy)
    if not done or (failed and time.monotonic() > deadline):
        raise RunError(
            f"the query takes more than {timeout:g} s: it has too many frequent words, short prefixes (a*) or phrases; "
            "make it narrower, or allow more time by --timeout"
        )
    if isinstance(done[0], BaseException):
        raise done[0]
    return done[0]


def _find(connection: sqlite3.Connection, expression: str, limit: int, offset: int, max_ranked: int) -> Found:
    (captions,) = connection.execute("SELECT coalesce(sum(documents), 0) FROM tables").fetchone()
    best, ranked = _best(connection, expression, offset + limit, max_ranked)
    total = ranked
    if ranked == max_ranked:
        (total,) = connection.execute("SELECT count(*) FROM captions WHERE captions MATCH ?", (expression,)).fetchone()
    chosen = best[offset:]
    rows = [_document(connection, number) for _, number in chosen]
    snippets = Matcher(expression).snippets([row[-1] for row in rows])
    hits = [
        Hit(offset + i, score, path_of(table), row, path_of(path), _range(start, end), column, outcome, text,
            snippet or Snippet(plain_line(text)[:_CHARACTERS_WITHOUT_MATCH], ()))
        for i, ((score, _), (table, row, path, start, end, column, outcome, text), snippet) in enumerate(
            zip(chosen, rows, snippets, strict=True), 1
        )
    ]  # fmt: skip
    return Found(tuple(hits), total, ranked, captions)


def _best(
    connection: sqlite3.Connection, expression: str, wanted: int, max_ranked: int
) -> tuple[list[tuple[float, int]], int]:
    """Score and number of the best documents, best first; and the number of documents that were ranked."""
    found = connection.execute(
        "SELECT -bm25(captions), -rowid FROM captions WHERE captions MATCH ? LIMIT ?", (expression, max_ranked)
    )
    ranked = 0
    heap: list[tuple[float, int]] = []
    for entry in found:
        ranked += 1
        if len(heap) < wanted:
            heapq.heappush(heap, entry)
        elif entry > heap[0]:
            heapq.heapreplace(heap, entry)
    return [(score, -number) for score, number in sorted(heap, reverse=True)], ranked


def _document(
    connection: sqlite3.Connection, number: int
) -> tuple[str, int, str, int | None, int | None, str, str, str]:
    row: tuple[str, int, str, int | None, int | None, str, str, str] = connection.execute(
        "SELECT tables.path, row, documents.path, start_ms, end_ms, caption_column, outcome, text "
        "FROM documents JOIN tables ON tables.id = table_id WHERE documents.id = ?",
        (number,),
    ).fetchone()
    return row


def _range(start: int | None, end: int | None) -> TimeRange | None:
    return None if start is None else TimeRange(start, end)
