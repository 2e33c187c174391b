"""Opens the SQLite file of an answer store: creates its tables, or checks that it is one. Knows nothing about answers.

Users may read the file with any SQLite tool, also during a run.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from ...process.errors import UsageError

LOCK_SECONDS = 60.0
"""How long a statement waits while another process writes to the file."""
FORMAT = 1
_APPLICATION_ID = 0x43415041  # marks the SQLite files that are answer stores
_TABLES = (
    "CREATE TABLE jobs (id INTEGER PRIMARY KEY, output TEXT NOT NULL, begun TEXT NOT NULL, ended TEXT)",
    """CREATE TABLE answers (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, attempt INTEGER NOT NULL, job INTEGER NOT NULL, model TEXT NOT NULL,
        path TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL, refusal TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, has_usage INTEGER NOT NULL,
        partial INTEGER NOT NULL, is_image INTEGER NOT NULL, answered_at TEXT NOT NULL)""",
    "CREATE INDEX answers_by_key ON answers (key, id)",
    "CREATE INDEX tokens_by_job ON answers (job, prompt_tokens, completion_tokens)",
)
_MOUNTS = Path("/proc/self/mountinfo")
_LOCAL_FILE_SYSTEMS = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "tmpfs", "xfs", "zfs")
)
"""File systems that only one host writes to. The write-ahead log (WAL) of SQLite is in memory that the processes of one
host share: on a network file system, processes of two hosts would damage the file."""


def open_store(path: Path) -> sqlite3.Connection:
    """A connection to the answer store at `path`, which is created if there is no file. For one thread at a time.

    Raises:
        UsageError: the file is not an answer store of this format, or can't be opened.
    """
    _check_path(path)
    try:
        connection = connect(path)
        try:
            _create_or_check(connection, path)
            _choose_journal_mode(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.OperationalError as error:
        raise _unusable(path, f"can't be opened ({error})") from error
    except sqlite3.DatabaseError as error:
        raise _unusable(path, f"is not an answer store ({error})") from error
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """A connection to an answer store that was opened before. Statements are committed one by one, without `BEGIN`."""
    connection = sqlite3.connect(
        os.path.abspath(path), timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that can't change the answer store at `path`; to an empty store in memory if there is no file.

    Raises:
        UsageError: the file is not an answer store of this format, or can't be read.
    """
    if not path.exists():
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        _create_or_check(connection, path)
        return connection
    uri = f"{Path(os.path.abspath(path)).as_uri()}?mode=ro"
    try:
        connection = sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _check(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        raise _unusable(path, f"can't be read ({error})") from error
    return connection


def _check_path(path: Path) -> None:
    if not path.parent.is_dir():
        raise _unusable(path, f"the folder {path.parent} does not exist")
    if path.is_dir():
        raise _unusable(path, "is a folder")
    if not path.exists():
        return
    if not path.is_file():
        raise _unusable(path, "is not a regular file")
    if not os.access(path, os.R_OK | os.W_OK):
        raise _unusable(path, "may not be read and written")


def _create_or_check(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")  # two processes may create the file at the same time
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id == 0 and tables == 0:
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={FORMAT}")
    _check(connection, path)
    connection.execute("COMMIT")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != _APPLICATION_ID:
        raise _unusable(path, "is an SQLite file of another program")
    if version != FORMAT:
        raise _unusable(path, f"has format {version}, and this version of the program has format {FORMAT}")


def _choose_journal_mode(connection: sqlite3.Connection, path: Path) -> None:
    mode = "WAL" if _is_on_local_disk(path) else "DELETE"
    try:
        connection.execute(f"PRAGMA journal_mode={mode}")
    except sqlite3.OperationalError:
        # Another process uses the file, or the file system has no shared memory: the present mode works too.
        connection.execute("SELECT count(*) FROM jobs")


def _is_on_local_disk(path: Path) -> bool:
    """Whether the file system of a file is known to belong to one host."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    return _file_system(os.path.realpath(path), mounts) in _LOCAL_FILE_SYSTEMS


def _file_system(path: str, mounts: Iterable[str]) -> str:
    """The type of the file system of a path. mounts: lines of `/proc/self/mountinfo`, see proc(5)."""
    found, found_at = "", ""
    for line in mounts:
        fields, _, source = line.partition(" - ")
        mounted_at = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split()[4])
        contains = path == mounted_at or path.startswith(mounted_at.rstrip("/") + "/")
        if contains and len(mounted_at) >= len(found_at):
            found, found_at = source.split()[0], mounted_at
    return found


def _unusable(path: Path, problem: str) -> UsageError:
    return UsageError(f"--answers {path}: {problem}; give another file with --answers")
