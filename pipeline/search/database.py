"""The database of captions: opens it, and defines its tables. Knows nothing about captioned tables and queries.

One document is the caption of one row in one column. The full-text table `captions` has no text of its own: FTS5 reads
it from `documents` (external content).

Writing uses a rollback journal: after a kill, the next process that opens the database rolls back what was not
committed. A write-ahead log would let queries read during a write, but it works neither on file systems of other
machines nor in folders without permission to write, and a large table would be written twice.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pipeline.captioning.process.errors import RunError, UsageError

from .fts import TOKENIZER, check_fts5

_APPLICATION_ID = 0x43415053
"""Says in the header of the file that it is ours; `file` shows it."""
_VERSION = 1
_BUSY_SECONDS = 10.0
"""How long another process that writes is waited for."""
_CACHE_KIB = 64 * 1024
_SCHEMA = (
    # first_id, last_id: of the table's documents, which are contiguous. captions: names of columns, as JSON.
    "CREATE TABLE tables (id INTEGER PRIMARY KEY, path NOT NULL UNIQUE, captions TEXT NOT NULL, "
    "documents INTEGER NOT NULL, without_caption INTEGER NOT NULL, first_id INTEGER NOT NULL, last_id INTEGER NOT NULL,"
    " indexed REAL NOT NULL)",
    # path: TEXT, or BLOB if it is not valid UTF-8. start_ms, end_ms: NULL for the whole file, or its end.
    "CREATE TABLE documents (id INTEGER PRIMARY KEY, table_id INTEGER NOT NULL, row INTEGER NOT NULL, path NOT NULL, "
    "start_ms INTEGER, end_ms INTEGER, caption_column TEXT NOT NULL, outcome TEXT NOT NULL, text TEXT NOT NULL)",
    f"CREATE VIRTUAL TABLE captions USING fts5(text, content='documents', content_rowid='id', tokenize='{TOKENIZER}')",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
)


class DatabaseBusy(RunError):
    """Another process is writing to the database."""


@contextlib.contextmanager
def open_to_write(path: Path) -> Iterator[sqlite3.Connection]:
    """The database at `path` in autocommit mode; it is made if there is none.

    Raises:
        UsageError: the file is not such a database, or of a newer version; or it can't be made.
        DatabaseBusy: another process is still writing to it.
        RunError: the disk is full, …
    """
    check_fts5()
    if not path.parent.is_dir():
        raise UsageError(f"the folder of --database, {path.parent}, does not exist")
    with _opened(path, "rwc") as connection:
        if _is_empty(connection):
            with transaction(connection):
                if _is_empty(connection):  # no other process has been faster
                    for statement in _SCHEMA:
                        connection.execute(statement)
        _check_kind(connection, path)
        yield connection


@contextlib.contextmanager
def open_to_read(path: Path, busy_seconds: float | None = None) -> Iterator[sqlite3.Connection]:
    """The database at `path`, which exists.

    busy_seconds: how long another process that writes is waited for; None for the usual time.

    Raises:
        UsageError: there is no such file, or it is not such a database, or of a newer version.
        DatabaseBusy: another process is still writing to it.
    """
    check_fts5()
    if not path.is_file():
        raise UsageError(
            f"--database {path} {'is not a file' if path.exists() else 'does not exist'}; make it with "
            "python -m pipeline.search index TABLE --database FILE"
        )
    with _opened(path, "rw", busy_seconds) as connection:  # after a kill, reading too needs to roll back
        _check_kind(connection, path)
        yield connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All changes or none. No other process can write meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _opened(path: Path, mode: str, busy_seconds: float | None = None) -> Iterator[sqlite3.Connection]:
    seconds = _BUSY_SECONDS if busy_seconds is None else busy_seconds
    try:
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", timeout=seconds, isolation_level=None, uri=True
        )
    except sqlite3.Error as error:
        raise UsageError(f"--database {path} can't be opened: {error}; give another file") from error
    try:
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        yield connection
    except sqlite3.OperationalError as error:
        raise _explained(path, error) from error
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise UsageError(f"--database {path} is not a database of captions; give another file") from error
        raise RunError(f"--database {path}: {error}; remove it and index the tables again") from error
    finally:
        connection.close()


def _explained(path: Path, error: sqlite3.OperationalError) -> RunError:
    if "locked" in str(error):
        text = f"--database {path} is being written by another process, such as an index command; try again later"
        return DatabaseBusy(text)
    if "disk is full" in str(error):
        return RunError(f"--database {path}: the disk is full; free space and try again; the database is unchanged")
    return RunError(f"--database {path}: {error}; the database is unchanged")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def _check_kind(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION_ID:
        raise UsageError(f"--database {path} is not a database of captions; give another file")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != _VERSION:
        raise UsageError(
            f"--database {path} has version {version}, and this program writes version {_VERSION}; use the program "
            "that made it, or index the tables into another file"
        )


def stored_path(path: str) -> str | bytes:
    """A path as the database keeps it: bytes if it is not valid UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def path_of(stored: str | bytes) -> str:
    """The path that `stored_path` has made this of."""
    return stored if isinstance(stored, str) else os.fsdecode(stored)
