"""One device: its process, which is started again when it ends, and the questions that the process has.

Knows nothing about other devices and about questions that no process has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...captioning.process.errors import RunError, UsageError
from ..messages import (
    Answer,
    Ask,
    Cancel,
    DeviceSettings,
    Done,
    Failed,
    FromDevice,
    Given,
    LoadFailed,
    Ready,
    State,
    Stop,
)
from .open_question import AcceptedQuestion
from .process import ProcessLink

logger = logging.getLogger(__name__)

AHEAD = 3
"""Questions for each slot that a process has at most: one that is answered, and two whose media are decoded."""
SHORTEST_BACKOFF, LONGEST_BACKOFF = 1.0, 30.0
"""Seconds before a process is started again; doubled at each death until an answer ends."""
LOAD_SECONDS = 1800.0
"""Time for a process that was started again to load its model; the compiler of an NPU may need most of it."""
_BRIEF_SECONDS = 5.0
"""A question that was cancelled this soon may have left no trace in the messages of its process."""


@dataclass(frozen=True)
class DevicePlace:
    """Where a process runs. name: for the log. environment: of the process, complete."""

    name: str
    environment: Mapping[str, str]


class DeviceOwner(Protocol):
    """What a device reports. All is called in the event loop."""

    def on_ready(self) -> None:
        """The process takes questions, or more of them than before."""

    def on_answered(self, question: AcceptedQuestion) -> None:
        """A question has ended; there is room for another one."""

    def on_lost(self, questions: Sequence[AcceptedQuestion], given: Collection[AcceptedQuestion]) -> None:
        """The process has ended with these questions, in the order in which it got them. given: to its engine."""

    def on_load_failure(self, error: UsageError | RunError) -> None:
        """The first process could not load its model; it is not started again."""


class Device:
    """See the module. Used from one event loop.

    settings: the first message to each process.
    stall_seconds: a process that has questions and sends nothing for so long is killed. While it decodes, it sends its
        state.
    description: of the last `Ready`; empty before the first one. slots: of the process at present; 0 while it is not
        ready.
    restarts: how often a process was started again.
    asked: number of questions so far.
    """

    def __init__(
        self,
        place: DevicePlace,
        command: Sequence[str],
        settings: DeviceSettings,
        stall_seconds: float,
        owner: DeviceOwner,
    ) -> None:
        self.place = place
        self.description = ""
        self.slots = self.restarts = self.asked = 0
        self.ended = asyncio.Event()
        self._command, self._settings, self._stall_seconds, self._owner = command, settings, stall_seconds, owner
        self._link: ProcessLink | None = None
        self._questions: dict[int, AcceptedQuestion] = {}
        self._given: set[int] = set()  # those of them that the engine of the process got
        self._running = 0
        self._started = 0.0  # when the process was started, on the clock of `time.monotonic`
        self._backoff = SHORTEST_BACKOFF
        self._owes_since: float | None = None  # since when a message of the process is due
        self._load_error: LoadFailed | None = None
        self._reason = ""  # why this side killed the process
        self._restart: asyncio.TimerHandle | None = None
        self._is_closing = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs; None if there is none."""
        return None if self._link is None else self._link.pid

    @property
    def unfinished(self) -> int:
        """Questions that the process has."""
        return len(self._questions)

    @property
    def running(self) -> int:
        """Questions in a slot, by the last report of the process."""
        return min(self._running, self.unfinished)

    @property
    def has_suspect(self) -> bool:
        """Whether the process has a question that may have been the cause of a death. It gets no other then."""
        return any(question.is_suspect for question in self._questions.values())

    @property
    def has_room(self) -> bool:
        """Whether the process takes another question."""
        return self.unfinished < AHEAD * self.slots

    def start(self) -> None:
        """Start a process."""
        self._restart, self._started = None, time.monotonic()
        self.ended.clear()
        try:
            self._link = ProcessLink(self._command, self.place.environment, self._on_message, self._on_end)
        except OSError as error:
            self._on_end(f"it can't be started: {error}")
            return
        self._link.send(self._settings)

    def ask(self, id: int, question: AcceptedQuestion, message: Ask) -> None:
        """Pass a question to the process, which must have room. message: what is sent, with the number `id`."""
        assert self._link is not None
        self._questions[id] = question
        self.asked += 1
        if self._owes_since is None:
            self._owes_since = time.monotonic()
        self._link.send(message)

    def cancel(self, question: AcceptedQuestion) -> bool:
        """Free the slot of a question; whether the process had it."""
        id = next((id for id, other in self._questions.items() if other is question), None)
        if id is None or self._link is None:
            return False
        self._forget(id)
        self._link.send(Cancel(id))
        # A process that hangs is noticed also if its clients give up one after the other.
        brief = self._owes_since is not None and time.monotonic() - self._owes_since < _BRIEF_SECONDS
        if brief and not self._questions:
            self._owes_since = None
        return True

    def kill_if_stalled(self, now: float) -> None:
        """Kill a process that has made no progress for too long. now: on the clock of `time.monotonic`."""
        if self._link is None or self._reason:
            return
        if not self.slots:
            if self.description and now - self._started > LOAD_SECONDS:
                self._kill_because(f"it did not load the model within {LOAD_SECONDS:g} s")
        elif self._owes_since is not None and now - self._owes_since > self._stall_seconds:
            self._kill_because(f"it made no progress for {self._stall_seconds:g} s (--stall_timeout)")

    def _kill_because(self, reason: str) -> None:
        assert self._link is not None
        self._owes_since = None
        self.slots = 0  # it gets no further question
        self._reason = f"{reason} and was killed"
        self._link.kill()

    def stop(self) -> None:
        """Ask the process to end, and start no other."""
        self._is_closing = True
        if self._restart is not None:
            self._restart.cancel()
        if self._link is None:
            self.ended.set()
        else:
            self._link.send(Stop())

    def kill(self) -> None:
        """Kill the process, if there is one."""
        if self._link is not None:
            self._link.kill()

    def _on_message(self, message: FromDevice) -> None:
        if isinstance(message, Ready):
            self._on_ready(message)
        elif isinstance(message, LoadFailed):
            self._load_error = message
        elif isinstance(message, State):
            self._on_state(message)
        elif isinstance(message, Given):
            self._given.update(id for id in message.ids if id in self._questions)
        else:
            self._on_answer(message)
        self._owes_since = time.monotonic() if self._questions else None

    def _on_ready(self, ready: Ready) -> None:
        if not self.slots and self.description:
            logger.info("%s: ready again: %s, %d slots", self.place.name, ready.description, ready.slots)
        self.slots, self.description = ready.slots, ready.description
        self._owner.on_ready()

    def _on_state(self, state: State) -> None:
        self._running = state.running
        before = self.slots
        if before:  # else it was killed
            self.slots = state.slots
        if self.slots > before:
            self._owner.on_ready()

    def _on_answer(self, message: Answer) -> None:
        question = self._questions.get(message.id)
        if question is None:  # it was cancelled
            return
        question.receive(message)
        if not question.has_ended:
            return
        self._forget(message.id)
        if isinstance(message, Done | Failed):
            self._backoff = SHORTEST_BACKOFF
        elif self._link is not None:  # the text differs from an earlier one
            self._link.send(Cancel(message.id))
        self._owner.on_answered(question)

    def _forget(self, id: int) -> None:
        del self._questions[id]
        self._given.discard(id)

    def _on_end(self, how: str) -> None:
        """The process has ended. how: for the log."""
        reason = self._reason or (self._load_error.message if self._load_error else f"it ended ({how})")
        is_usage_error = self._load_error is not None and self._load_error.is_usage_error
        questions = list(self._questions.values())
        given = [self._questions[id] for id in self._given]
        self._link = self._load_error = self._owes_since = None
        self._questions, self._given, self._running, self._reason, self.slots = {}, set(), 0, "", 0
        self.ended.set()
        if self._is_closing:
            return
        if not self.description:
            name = self.place.name
            self._owner.on_load_failure(
                UsageError(reason) if is_usage_error else RunError(f"{name}: the model can't be loaded: {reason}")
            )
            return
        logger.error(
            "%s: the device process died with %d questions: %s; it is started again in %g s",
            self.place.name,
            len(questions),
            reason,
            self._backoff,
        )
        self.restarts += 1
        self._restart = asyncio.get_running_loop().call_later(self._backoff, self.start)
        self._backoff = min(LONGEST_BACKOFF, 2 * self._backoff)
        self._owner.on_lost(questions, given)
