"""What all full-text tables have in common: the tokenizer, and the check that SQLite has FTS5. Opens no file."""

from __future__ import annotations

import sqlite3

from pipeline.captioning.process.errors import RunError

TOKENIZER = "unicode61 remove_diacritics 2"
"""Words are runs of letters and digits of any script; capital letters and accents make no difference.

`remove_diacritics 1`, the default, keeps the accents of letters that Unicode writes with more than one mark. A stemmer
(porter) knows only English, and finds words that were not asked for; a prefix (`star*`) says the same and is visible.
"""


def check_fts5() -> None:
    """Check that Python's SQLite has FTS5.

    Raises:
        RunError: it has not.
    """
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(f"CREATE VIRTUAL TABLE probe USING fts5(text, tokenize='{TOKENIZER}')")
    except sqlite3.OperationalError as error:
        raise RunError(
            f"the SQLite {sqlite3.sqlite_version} of this Python can't search text: {error}; search needs FTS5 "
            "(SQLite 3.27 or newer); use a Python whose sqlite3 module has it"
        ) from error
    finally:
        connection.close()
