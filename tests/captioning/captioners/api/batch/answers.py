"""Test doubles of the answer store and of what reads answers and errors; the tables are in a real SQLite file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from openai import APIStatusError

from pipeline.captioning.captioners.api.answer import Answer, AnsweredClip
from pipeline.captioning.captioners.api.errors import RequestFailed, ServiceStop, TryAgain


class SqliteStore:
    """Answers in an SQLite file; each write is committed at once."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
        self._lock = threading.Lock()
        self.write(
            "CREATE TABLE IF NOT EXISTS answers (id INTEGER PRIMARY KEY, key TEXT, attempt INTEGER, text TEXT, "
            "path TEXT, partial INTEGER, is_image INTEGER)",
            (),
        )

    def answers(self, key: str) -> list[tuple[Answer, AnsweredClip]]:
        rows = self.read("SELECT text, path, partial, is_image FROM answers WHERE key = ? ORDER BY attempt", (key,))
        return [(Answer(text), AnsweredClip(path, bool(partial), bool(image))) for text, path, partial, image in rows]

    def add(self, key: str, attempt: int, answer: Answer, clip: AnsweredClip) -> Future[None]:
        return self.write(
            "INSERT INTO answers (key, attempt, text, path, partial, is_image) VALUES (?, ?, ?, ?, ?, ?)",
            (key, attempt, answer.text, clip.path, clip.partial, clip.is_image),
        )

    def write(self, statement: str, parameters: Sequence[Any]) -> Future[None]:
        future: Future[None] = Future()
        try:
            self.read(statement, parameters)
        except sqlite3.Error as error:
            future.set_exception(error)
        else:
            future.set_result(None)
        return future

    def read(self, statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()

    def texts(self) -> list[tuple[str, int, str]]:
        """Every stored answer: key, attempt and text, in order."""
        return self.read("SELECT key, attempt, text FROM answers ORDER BY key, attempt", ())


def read_answer(body: Any) -> Answer:
    """The answer in a completion."""
    if "choices" not in body:
        raise TryAgain("no choices")
    usage = body["usage"]
    text = body["choices"][0]["message"]["content"]
    return Answer(text, prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"])


def problem_of(error: Exception) -> Exception:
    """What an exception of the library means."""
    if not isinstance(error, APIStatusError) or error.status_code >= 500 or error.status_code == 429:
        return TryAgain(str(error) or type(error).__name__)
    if error.status_code in (401, 403):
        return ServiceStop("the service does not accept the key")
    return RequestFailed(str(error))
