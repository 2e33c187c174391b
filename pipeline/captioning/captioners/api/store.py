"""The answer store: an SQLite file of paid answers, beside the table. It stays after a run.

An answer is committed, and on disk, before anything else happens to it. One thread writes; the answers that wait for it
are committed together. Several processes may share a file. Knows nothing about the network.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

from .answer import Answer, AnsweredClip


class AnswerStore:
    """The answers to all questions so far, by key and attempt.

    A job is a run and all runs that resume it; it is known by its output. With `pay_again`, answers that were stored by
    other jobs are not used.

    path: of the file; it is created if there is none.
    output: of the run.
    restart: begin a new job although the last one has not ended.

    Raises:
        UsageError: the file is not an answer store, or can't be opened.
    """

    def __init__(self, path: Path, output: Path, pay_again: bool = False, restart: bool = False) -> None:
        raise NotImplementedError

    def answers(self, key: str) -> list[tuple[Answer, AnsweredClip]]:
        """The answers to a question, in order of attempts: the latest of each. Thread-safe."""
        raise NotImplementedError

    def add(self, key: str, attempt: int, answer: Answer, clip: AnsweredClip) -> Future[None]:
        """Store an answer. The future ends when it is on disk. Thread-safe.

        attempt: 0 for the first answer, 1 for that to the question that was asked once more.
        """
        raise NotImplementedError

    def spent(self) -> tuple[int, int]:
        """Prompt and completion tokens of this job so far."""
        raise NotImplementedError

    def end_job(self) -> None:
        """The output of the job has been written."""
        raise NotImplementedError

    def close(self) -> None:
        """Wait until all answers are on disk, and close the file."""
        raise NotImplementedError
