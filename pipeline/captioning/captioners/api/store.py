"""The answer store: an SQLite file of paid answers, beside the table. It stays after a run.

An answer is committed, and on disk, before anything else happens to it. One thread writes; the answers that wait for it
are committed together. Several processes may share a file. Knows nothing about the network.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ...process.errors import RunError, UsageError
from .answer import Answer, AnsweredClip, well_formed
from .store_file import connect, connect_read_only, open_store

logger = logging.getLogger(__name__)

_ANSWER_COLUMNS = "text, finish_reason, refusal, prompt_tokens, completion_tokens, has_usage, path, partial, is_image"
_SELECT = f"SELECT attempt, {_ANSWER_COLUMNS} FROM answers WHERE key = ? ORDER BY id"
_SELECT_OF_JOB = f"SELECT attempt, {_ANSWER_COLUMNS} FROM answers WHERE key = ? AND job = ? ORDER BY id"
_UNENDED_JOB = "SELECT id FROM jobs WHERE output = ? AND ended IS NULL ORDER BY id DESC LIMIT 1"
_INSERT = f"""INSERT INTO answers (key, attempt, job, model, answered_at, {_ANSWER_COLUMNS})
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


@dataclass(frozen=True)
class _Write:
    """A statement for the writer thread. lost: what is lost if it fails, for the message."""

    statement: str
    parameters: Sequence[Any]
    lost: str = ""
    done: Future[None] = field(default_factory=Future)


class StoredAnswers:
    """The answers of a store, to be read only: nothing is written, and no job begins or ends.

    path: of the file; if there is none, there are no answers.
    output, pay_again: see `AnswerStore`.

    Raises:
        UsageError: the file is not an answer store, or can't be read.
    """

    def __init__(self, path: Path, output: Path, pay_again: bool = False) -> None:
        self.path, self._pay_again = path, pay_again
        self._reading_lock = threading.Lock()
        self._reading = connect_read_only(path)
        found = self.read(_UNENDED_JOB, (_text_of(output),))
        self.job = found[0][0] if found else 0

    def answers(self, key: str) -> list[tuple[Answer, AnsweredClip]]:
        """The answers to a question, in order of attempts: the latest of each. Thread-safe.

        Raises:
            RunError: the file can't be read.
        """
        rows = self.read(_SELECT_OF_JOB, (key, self.job)) if self._pay_again else self.read(_SELECT, (key,))
        latest = {row[0]: row[1:] for row in rows}
        return [_answer_of(latest[attempt]) for attempt in range(len(latest)) if attempt in latest]

    def read(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows that a statement selects: of what is on disk, also by other processes. Thread-safe.

        Raises:
            RunError: the file can't be read.
        """
        try:
            with self._reading_lock:
                return self._reading.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise RunError(f"{self.path}: can't be read: {error}") from error

    def spent(self) -> tuple[int, int, int]:
        """Number of answers of this job so far, and their prompt and completion tokens."""
        sums = "count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0)"
        ((answers, prompt_tokens, completion_tokens),) = self.read(
            f"SELECT {sums} FROM answers WHERE job = ?", (self.job,)
        )
        return answers, prompt_tokens, completion_tokens

    def close(self) -> None:
        self._reading.close()


class AnswerStore(StoredAnswers):
    """The answers to all questions so far, by key and attempt.

    A job is a run and all runs that resume it; it is known by its output. With `pay_again`, answers that were stored by
    other jobs are not used.

    path: of the file; it is created if there is none.
    output: of the run.
    restart: begin a new job although the last one has not ended.
    model: is noted with the answers, for people who read the file.
    job: the number of the job.

    The first error of a write is final: every answer that could not be stored is logged, and no later one is stored.

    Raises:
        UsageError: the file is not an answer store, or can't be opened.
    """

    def __init__(
        self, path: Path, output: Path, pay_again: bool = False, restart: bool = False, model: str = ""
    ) -> None:
        self.path = path
        self._pay_again, self._model = pay_again, model
        self._problem = ""
        self._is_closed = False
        self._writing = open_store(path)
        try:
            self.job = _job(self._writing, _text_of(output), restart)
            self._reading = connect(path)
            self._place = _place(path)
        except (sqlite3.Error, OSError) as error:
            self._writing.close()
            raise UsageError(f"--answers {path}: can't be used ({error}); give another file with --answers") from error
        self._reading_lock = threading.Lock()
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        # A daemon thread: a disk that never answers must not delay the end of the process.
        self._writer = threading.Thread(target=self._write_all, name="answer store", daemon=True)
        self._writer.start()

    def add(self, key: str, attempt: int, answer: Answer, clip: AnsweredClip) -> Future[None]:
        """Store an answer. The future ends when it is on disk, and can't be cancelled. Thread-safe.

        attempt: 0 for the first answer, 1 for that to the question that was asked once more.

        Raises:
            RunError: an earlier write failed. It is also the error of the future, if this write fails.
        """
        values = (
            *(well_formed(answer.text), well_formed(answer.finish_reason), well_formed(answer.refusal)),
            *(answer.prompt_tokens, answer.completion_tokens, answer.has_usage),
            *(well_formed(clip.path), clip.partial, clip.is_image),
        )
        lost = {"key": key, "attempt": attempt} | dict(zip(_ANSWER_COLUMNS.split(", "), values, strict=True))
        parameters = (key, attempt, self.job, self._model, _now(), *values)
        return self._enqueue(_Write(_INSERT, parameters, json.dumps(lost, ensure_ascii=False)))

    def write(self, statement: str, parameters: Sequence[Any] = ()) -> Future[None]:
        """Run a statement that changes the file; for tables of other modules. The future ends when it is on disk.

        Statements and answers are written in the order of the calls. Thread-safe.

        Raises:
            RunError: an earlier write failed. It is also the error of the future, if this write fails.
        """
        return self._enqueue(_Write(statement, parameters))

    def end_job(self) -> None:
        """The output of the job has been written. Waits for the disk.

        Raises:
            RunError: the file can't be written.
        """
        self.write("UPDATE jobs SET ended = ? WHERE id = ?", (_now(), self.job)).result()

    def close(self) -> None:
        """Wait until all answers are on disk, and close the file."""
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.put(None)
        self._writer.join()
        self._reading.close()
        self._writing.close()

    def _enqueue(self, write: _Write) -> Future[None]:
        assert not self._is_closed, "closed"
        if self._problem:
            raise self._failed(write)
        write.done.set_running_or_notify_cancel()  # so that nobody can cancel it: the answer is paid
        self._queue.put(write)
        return write.done

    def _write_all(self) -> None:
        """The writer thread. Everything that waits is one transaction, because each one waits for the disk."""
        while (first := self._queue.get()) is not None:
            waiting = [first]
            is_last = False
            for _ in range(self._queue.qsize()):
                if (write := self._queue.get()) is None:
                    is_last = True
                    break
                waiting.append(write)
            self._commit(waiting)
            if is_last:
                return

    def _commit(self, writes: Sequence[_Write]) -> None:
        if not self._problem:
            try:
                self._transact(writes)
            except Exception as error:  # any error must reach those who wait
                self._problem = f"{type(error).__name__}: {error}"
        for write in writes:
            if self._problem:
                write.done.set_exception(self._failed(write))
            else:
                write.done.set_result(None)

    def _transact(self, writes: Sequence[_Write]) -> None:
        try:
            self._writing.execute("BEGIN IMMEDIATE")
            for write in writes:
                self._writing.execute(write.statement, write.parameters)
            self._writing.execute("COMMIT")
        except BaseException:
            if self._writing.in_transaction:
                self._writing.execute("ROLLBACK")
            raise
        # SQLite writes to a removed file without an error.
        if _place(self.path) != self._place:
            raise FileNotFoundError("the file was replaced by another one during the run")

    def _failed(self, write: _Write) -> RunError:
        if not write.lost:
            return RunError(f"{self.path}: can't be written: {self._problem}")
        message = (
            f"{self.path}: a paid answer could not be stored ({self._problem}). Remove the cause and run the command "
            f"again, it resumes; the answer was: {write.lost}"
        )
        logger.error("%s", message)
        return RunError(message)


def _job(connection: sqlite3.Connection, output: str, restart: bool) -> int:
    """The number of the job with this output that has not ended, or of a new one."""
    connection.execute("BEGIN IMMEDIATE")
    if restart:
        connection.execute("UPDATE jobs SET ended = ? WHERE output = ? AND ended IS NULL", (_now(), output))
    row = connection.execute(_UNENDED_JOB, (output,)).fetchone()
    if row is None:
        number = connection.execute("INSERT INTO jobs (output, begun) VALUES (?, ?)", (output, _now())).lastrowid
    else:
        (number,) = row
    connection.execute("COMMIT")
    assert number is not None
    return int(number)


def _text_of(output: Path) -> str:
    """The path of an output as it is stored; one that is not UTF-8 can't be."""
    return os.fsencode(os.path.realpath(output)).decode("utf-8", "backslashreplace")


def _answer_of(row: Sequence[Any]) -> tuple[Answer, AnsweredClip]:
    text, finish_reason, refusal, prompt_tokens, completion_tokens, has_usage, path, partial, is_image = row
    answer = Answer(text, finish_reason, refusal, prompt_tokens, completion_tokens, bool(has_usage))
    return answer, AnsweredClip(path, bool(partial), bool(is_image))


def _place(path: Path) -> tuple[int, int]:
    """The file that is at a path, whatever its content."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(sep=" ", timespec="seconds")
