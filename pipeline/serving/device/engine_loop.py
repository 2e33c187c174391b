"""The thread that drives the engine: questions join running slots and leave when they end.

It works as the loop of a run (`captioning/run/work.py`) does, with questions in place of rows. Knows nothing about
pipes, processes and decoders.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...captioning.backends import Backend
from ...captioning.captioners.base import Captioner, Refused
from ...captioning.generation.requests import End, Engine, Event
from ...captioning.process.errors import RunError
from ..messages import Ask, Cancel, Done, Failed, FromDevice, Given, Problem, State, Stop
from .media_loader import Loaded, NotLoaded
from .open_answer import OpenAnswer
from .prepare import key_of, prepared, question_of
from .waiting import Waiting

logger = logging.getLogger(__name__)

STATE_SECONDS = 0.5
"""Time between two messages about the state while questions are open."""

Received = Ask | Cancel | Stop | Loaded | NotLoaded | Exception
"""What the loop takes from its inbox. An exception ends it."""


class Loader(Protocol):
    """What the loop needs of `MediaLoader`."""

    def add(self, ask: Ask) -> None:
        """Load the media of a question; the result comes through the inbox."""

    def forget(self, question: int) -> None:
        """Free what is kept for a question."""


@dataclass
class _InFlight:
    """A question that was given to the engine. answer: None until its request is prepared."""

    question: Loaded
    answer: OpenAnswer | None = None


class EngineLoop:
    """Answers questions.

    backend: of the captioner.
    slots: most questions in flight.
    inbox: from which messages are taken; the loader puts its results there.
    send: sends a message to the HTTP process.
    check_device: asks the model a small question; raises an error if the device fails.
    system: as in `prepare.prepared`.
    """

    def __init__(
        self,
        captioner: Captioner,
        backend: Backend,
        slots: int,
        loader: Loader,
        inbox: queue.SimpleQueue[Received],
        send: Callable[[FromDevice], None],
        check_device: Callable[[], None],
        system: str = "",
    ) -> None:
        self._captioner, self._backend, self._loader = captioner, backend, loader
        self._inbox, self._send, self._check_device, self._system = inbox, send, check_device, system
        self._open: set[int] = set()  # questions that were received and have not ended
        self._in_flight: dict[int, _InFlight] = {}
        self._engine: Engine | None = None
        self._engine_slots = 0
        self._waiting = Waiting(slots)
        self._messages: list[FromDevice] = []  # to send: an error of the pipe is none of the model
        self._state, self._state_time = State(0, 0, slots), 0.0  # the last message

    def receive(self, message: Ask | Cancel | Stop) -> None:
        """Take a message of the HTTP process. Called by the thread that reads them: decoding begins and ends at once,
        also during a step of the engine."""
        self._inbox.put(message)
        if isinstance(message, Ask) and message.media:
            self._loader.add(message)
        elif isinstance(message, Cancel):
            self._loader.forget(message.id)

    def run(self) -> None:
        """Answer questions until `Stop` is received.

        Raises:
            RunError: the device fails. Questions that are open then have no answer.
            StartError: no decoding process can be started.
            BrokenPipeError, ConnectionResetError: the HTTP process has gone.
        """
        while self._take_messages():
            self._advance()
            for message in self._messages:
                self._send(message)
            self._messages.clear()
            self._report()

    def _take_messages(self) -> bool:
        """Handle the messages in the inbox; wait for one if there is no other work. Returns whether to continue."""
        must_wait = not self._in_flight and not self._waiting.total
        # While questions are being decoded, the HTTP process must see that this loop is alive.
        seconds = STATE_SECONDS if self._open else None
        while True:
            try:
                message = self._inbox.get(must_wait, seconds)
            except queue.Empty:
                return True
            must_wait = False
            if isinstance(message, Stop):
                return False
            if isinstance(message, Exception):
                raise message
            self._handle(message)

    def _handle(self, message: Ask | Cancel | Loaded | NotLoaded) -> None:
        if isinstance(message, Ask):
            self._open.add(message.id)
            if not message.media:
                self._waiting.add(Loaded(message))
        elif isinstance(message, Cancel):
            self._cancel(message.id)
        elif message.ask.id not in self._open:
            return
        elif isinstance(message, Loaded):
            self._waiting.add(message)
        else:
            self._fail(message.ask.id, Problem.MEDIA, "; ".join(message.messages))

    def _cancel(self, question: int) -> None:
        self._open.discard(question)
        self._loader.forget(question)
        if self._in_flight.pop(question, None) is not None and self._engine is not None:
            self._engine.cancel(key_of(question))
        self._waiting.remove(question)

    def _advance(self) -> None:
        """Give questions to the engine, and let it take a step."""
        if not self._in_flight and not self._waiting.present:
            if self._waiting.next_group():
                self._engine = None
            return
        problem = self._step()
        if problem is not None:
            # Neither a variable nor the error refers to the engine any more: its memory can be released.
            self._engine = None
            self._recover(*problem)

    def _step(self) -> tuple[str, bool] | None:
        """As `_advance`, with questions. Returns None, or the error of the model and whether it is out of memory."""
        if self._engine is None or (self._engine_slots < self._waiting.slots and not self._in_flight):
            self._engine = None  # two engines may not fit into memory
            self._engine, self._engine_slots = self._new_engine(self._waiting.slots)
        engine = self._engine
        questions = self._next_questions(engine)
        self._in_flight |= {question.ask.id: _InFlight(question) for question in questions}
        if questions:
            self._send(Given(tuple(question.ask.id for question in questions)))
        try:
            self._prepare(engine, questions)
            # A question that can't be asked leaves; the engine may be empty.
            has_more = bool(questions and self._waiting.present and engine.requests_needed)
            events = engine.step() if self._in_flight and not has_more else []
            self._add_answers(engine, events)
        except (BrokenPipeError, ConnectionResetError):  # of `_report` during a step: no error of the model
            raise
        except Exception as error:
            logger.exception("an error of the model with %d questions in flight", len(self._in_flight))
            return _one_line(error), self._backend.is_out_of_memory(error)
        return None

    def _new_engine(self, slots: int) -> tuple[Engine, int]:
        """A new engine and its number of slots: `slots`, or fewer if the memory does not suffice.

        Raises:
            RunError: the engine can't be made, not even with one slot if the reason is out of memory.
        """
        try:
            engine = self._captioner.engine(slots)
            engine.on_token = self._report
            return engine, slots
        except Exception as error:
            if slots == 1 or not self._backend.is_out_of_memory(error):
                raise RunError(f"no question can be answered any more: {_one_line(error)}") from error
        self._backend.release_memory()
        self._waiting.lower_slots(slots // 2)
        return self._new_engine(slots // 2)

    def _next_questions(self, engine: Engine) -> list[Loaded]:
        if engine.waiting:
            return []
        if self._in_flight and self._engine_slots < self._waiting.slots and engine.free < self._waiting.present:
            return []  # once the engine is empty, one with more slots takes these questions
        questions = self._waiting.take(min(engine.free, self._captioner.clips_together))
        for question in questions:
            self._loader.forget(question.ask.id)
        return questions

    def _prepare(self, engine: Engine, questions: Sequence[Loaded]) -> None:
        """Add the requests of questions to the engine. A question that can't be asked fails."""
        # A request keeps its embeddings, so no variable may keep it: that would be the memory of a whole batch.
        for request in prepared(self._captioner, self._system, questions):
            if isinstance(request, Refused):
                problem = Problem.TOO_LONG if request.is_too_long else Problem.PROMPT
                self._fail(request.row, problem, request.message)
                continue
            question = question_of(request.key)
            in_flight = self._in_flight[question]
            in_flight.answer = OpenAnswer(in_flight.question.ask, self._captioner, request)
            try:
                engine.add(request)
            except ValueError as error:  # the engine does not support one of its options
                self._fail(question, Problem.PROMPT, str(error))

    def _add_answers(self, engine: Engine, events: Sequence[Event]) -> None:
        """Add messages about what a step has generated, with one piece of text at most for each answer."""
        ids: dict[int, list[int]] = {}
        ends: dict[int, End] = {}
        for event in events:
            if isinstance(event, End):
                ends[question_of(event.key)] = event
            else:
                ids.setdefault(question_of(event.key), []).append(event.id)
        for question in dict.fromkeys([*ids, *ends]):
            answer = self._in_flight[question].answer
            assert answer is not None, "the engine has only requests that were prepared"
            messages = answer.add(ids[question]) if question in ids else []
            if question in ends:
                messages += answer.end(ends[question])
            elif answer.has_ended:  # at a stop text
                engine.cancel(key_of(question))
            if answer.has_ended:
                self._forget(question)
            if any(isinstance(message, Done) for message in messages):
                self._waiting.count_answer()
            self._messages += messages

    def _recover(self, message: str, out_of_memory: bool) -> None:
        """Arrange that all questions in flight are asked again after an error; a new engine takes them.

        They become a group of their own with half as many in flight, again and again until a question is alone. If it
        fails alone, it is the cause. If the memory was not enough for all and no question is the cause, the loop has
        fewer slots for a while.

        Raises:
            RunError: the device fails without this question, too; or no question was in flight.
        """
        questions = [one.question for one in self._in_flight.values()]
        self._in_flight.clear()
        if not questions:
            raise RunError(f"no question can be answered any more: {message}")
        self._backend.release_memory()
        if len(questions) == 1 and (self._engine_slots == 1 or not out_of_memory):
            self._check(message)
            if out_of_memory:
                self._waiting.keep_slots()
            self._fail(questions[0].ask.id, Problem.MODEL, message)
        else:
            self._waiting.ask_again(questions, out_of_memory)

    def _check(self, message: str) -> None:
        """
        Raises:
            RunError: the device fails.
        """
        try:
            self._check_device()
        except Exception as error:
            raise RunError(f"the device fails ({_one_line(error)}) after an error: {message}") from error

    def _fail(self, question: int, problem: Problem, message: str) -> None:
        self._forget(question)
        self._messages.append(Failed(question, problem, message))

    def _forget(self, question: int) -> None:
        self._loader.forget(question)
        self._open.discard(question)
        self._in_flight.pop(question, None)

    def _report(self) -> None:
        """Send the state if it has changed, or if questions are open and the last message is old."""
        in_slots = self._engine.active - self._engine.waiting if self._engine is not None else 0
        running = max(0, min(len(self._in_flight), in_slots))
        state, now = State(running, len(self._open) - running, self._waiting.slots), time.monotonic()
        if state != self._state or (self._open and now - self._state_time >= STATE_SECONDS):
            self._send(state)
            self._state, self._state_time = state, now


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
