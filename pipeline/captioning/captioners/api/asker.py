"""Asks a question: looks into the store, sends it if it must, stores the answer, and asks once more if it has to.

Used for clips, and for text alone. Two questions with the same key are sent once.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...meta.results import ColumnResult
from .answer import Answer, AnsweredClip
from .options import Generation
from .requests import ServiceRequest
from .sender import Sender
from .store import AnswerStore
from .usage import Usage

MAX_ATTEMPTS = 2
"""Answers to one question at most: the second one only if the first is empty, refused, or does not fit the schema."""


@dataclass(frozen=True)
class Attempt:
    """What has to be asked next. number: 0, or 1 with the `previous` answer and the `note` about it."""

    number: int
    previous: Answer | None = None
    note: str = ""


@dataclass(frozen=True)
class StoredResult:
    """A result that needs no further answer. outcome: its name, see `Outcome`."""

    result: ColumnResult
    outcome: str
    clip: AnsweredClip


class Asker:
    """sender: None if nothing is sent (a batch, or a dry run)."""

    def __init__(self, store: AnswerStore, sender: Sender | None, generation: Generation, usage: Usage) -> None:
        raise NotImplementedError

    def next(self, key: str) -> Attempt | StoredResult:
        """What the store says about a question: its result, or what has to be asked next. Thread-safe."""
        raise NotImplementedError

    async def ask(self, request: ServiceRequest) -> StoredResult:
        """The result of a question.

        Raises:
            ServiceStop, NotSent: see `Sender.send`. A `RequestFailed` becomes a failure.
        """
        raise NotImplementedError
