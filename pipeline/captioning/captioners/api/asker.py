"""Asks a question: looks into the store, sends it if it must, stores the answer, and asks once more if it has to.

Used for clips, and for text alone. Two questions with the same key are sent once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...meta.results import CaptionResult, ColumnResult, Failure
from .answer import Answer, AnsweredClip
from .errors import RequestFailed
from .options import Generation
from .outcomes import Outcome, outcome_of
from .requests import Content, ServiceRequest, body, whole
from .sender import Sender
from .store import AnswerStore, StoredAnswers
from .usage import Usage

MAX_ATTEMPTS = 2
"""Answers to one question at most: the second one only if the first is empty, refused, or does not fit the schema."""
_NO_TEXT = "(no text)"
"""Sent for an empty answer: many services accept neither an empty message nor two messages of the user in a row."""


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


@dataclass(frozen=True)
class _Asked:
    """What became of a question that was asked. is_stored: its answers are in the store; False if a request failed."""

    result: StoredResult
    is_stored: bool


class Asker:
    """sender: None if nothing is sent (a batch, or a dry run)."""

    def __init__(self, store: StoredAnswers, sender: Sender | None, generation: Generation, usage: Usage) -> None:
        self._store, self._sender, self._generation, self._usage = store, sender, generation, usage
        self._asking: dict[str, asyncio.Task[_Asked]] = {}
        # Hashes of the keys of this run's answers: a few bytes for each, also in a run of a million rows.
        self._answered_now: set[int] = set()

    def next(self, key: str) -> Attempt | StoredResult:
        """What the store says about a question: its result, or what has to be asked next. Thread-safe."""
        return self._judged(self._store.answers(key)[:MAX_ATTEMPTS])

    def body(self, request: ServiceRequest, attempt: Attempt) -> dict[str, Any]:
        """The body of an attempt: the question; the second time also what was answered, and the note about it.

        Large files are in it as a whole.
        """
        return self._body(lambda: whole(request.content()), attempt)

    async def ask(self, request: ServiceRequest, step: Attempt | StoredResult | None = None) -> StoredResult:
        """The result of a question.

        If the caller is cancelled, a request that was sent is still answered and stored: it is paid.

        step: what `next` said about the question earlier in this run. The store is then read again only if the question
            was answered in this run, perhaps for another row since then.

        Raises:
            ServiceStop, NotSent: see `Sender.send`. A `RequestFailed` becomes a failure.
            RunError: an answer could not be stored, or the store can't be read.
        """
        asking = self._asking.get(request.key)
        if asking is None:
            if step is None or hash(request.key) in self._answered_now:
                step = self.next(request.key)
            if isinstance(step, StoredResult):
                return self.count_stored(step)
            task = asyncio.create_task(self._answered(request, step))
            self._asking[request.key] = task
            task.add_done_callback(lambda done: self._forget(request.key, done))
            asked = await asyncio.shield(task)
        else:
            asked = await asyncio.shield(asking)
            if asked.is_stored:
                return self.count_stored(asked.result)
        self._usage.outcomes[asked.result.outcome] += 1
        return asked.result

    def count_stored(self, result: StoredResult) -> StoredResult:
        """Count a result for which nothing was sent, and return it; for results of `next` that are used directly."""
        self._usage.stored += 1
        self._usage.outcomes[result.outcome] += 1
        return result

    async def _answered(self, request: ServiceRequest, attempt: Attempt) -> _Asked:
        assert self._sender is not None, "nothing is sent"
        answers = [] if attempt.previous is None else [(attempt.previous, request.clip)]
        while True:
            try:
                answer = await self._sender.send(partial(self._body, request.content, attempt))
            except RequestFailed as error:
                return _Asked(self._without_answer(request, attempt, error), is_stored=False)
            assert isinstance(self._store, AnswerStore), "nothing is sent"
            await asyncio.wrap_future(self._store.add(request.key, attempt.number, answer, request.clip))
            self._answered_now.add(hash(request.key))
            self._usage.add(answer)
            answers.append((answer, request.clip))
            step = self._judged(answers)
            if isinstance(step, StoredResult):
                return _Asked(step, is_stored=True)
            attempt = step

    def _judged(self, answers: Sequence[tuple[Answer, AnsweredClip]]) -> Attempt | StoredResult:
        """What follows from the answers to a question so far, in order of attempts."""
        outcomes: list[Outcome] = []
        for answer, clip in answers:
            outcome = outcome_of(answer, self._generation.schema)
            if isinstance(outcome.result, CaptionResult):
                return StoredResult(outcome.result, outcome.name, clip)
            outcomes.append(outcome)
        if not outcomes:
            return Attempt(0)
        previous, clip = answers[-1]
        last = outcomes[-1]
        if last.note and len(outcomes) < MAX_ATTEMPTS:
            return Attempt(len(outcomes), previous, last.note)
        return StoredResult(Failure(last.name, tuple(_messages(outcomes))), last.name, clip)

    def _body(self, make_content: Callable[[], Content], attempt: Attempt) -> dict[str, Any]:
        content = make_content()
        if attempt.previous is None:
            return body(self._generation, content)
        answered = attempt.previous.text.strip() or attempt.previous.refusal.strip() or _NO_TEXT
        turns = [{"role": "assistant", "content": answered}, {"role": "user", "content": attempt.note}]
        return body(self._generation, content, turns)

    def _without_answer(self, request: ServiceRequest, attempt: Attempt, error: RequestFailed) -> StoredResult:
        """A failure that is not stored, so that the next run asks again."""
        earlier = [] if attempt.previous is None else [outcome_of(attempt.previous, self._generation.schema)]
        messages = _messages(earlier)
        messages.append(f"asked once more: {error}" if earlier else str(error))
        return StoredResult(Failure(error.stage, tuple(messages)), error.stage, request.clip)

    def _forget(self, key: str, task: asyncio.Task[_Asked]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # all callers may be cancelled; then asyncio would log that nobody took the error


def _messages(outcomes: Sequence[Outcome]) -> list[str]:
    """The messages of failures, in order of attempts."""
    messages: list[str] = []
    for attempt, outcome in enumerate(outcomes):
        assert isinstance(outcome.result, Failure)
        messages += [f"asked once more: {text}" if attempt else text for text in outcome.result.messages]
    return messages
