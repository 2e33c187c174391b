"""What the HTTP side needs of the device processes: ask, receive the answer, cancel. See `devices.Devices`.

Knows nothing about processes. Tests have one without any.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from .messages import Answer, Ask


class QueueFull(Exception):
    """No further question is accepted at present. retry_after: seconds after which a client should try again."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Load:
    """How busy the server is.

    running: questions in slots. waiting: accepted questions without a slot. slots: of the processes that are ready.
    devices: number of device processes. ready: those that are loaded and answer. restarts: processes that died or were
        killed and were started again.
    """

    running: int
    waiting: int
    slots: int
    devices: int
    ready: int
    restarts: int


class OpenQuestion(Protocol):
    """A question that was accepted."""

    def answers(self) -> AsyncIterator[Answer]:
        """The messages about the answer; `Done` or `Failed` is the last one.

        `Text` comes in order, without gaps and without repetitions, also if the answer was generated again.
        """

    def cancel(self) -> None:
        """The answer is not wanted any more; frees its slot. Does nothing after the end."""


class Answering(Protocol):
    """Accepts questions. Used from one event loop."""

    def ask(self, question: Ask) -> OpenQuestion:
        """Accept a question.

        Raises:
            QueueFull: too many questions wait, no device process is ready, or the server is shutting down.
        """

    def load(self) -> Load:
        """How busy the server is now."""
