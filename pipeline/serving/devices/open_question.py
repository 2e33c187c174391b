"""A question that was accepted: what has happened to it, and the messages for the client that asked it.

Knows nothing about processes and about which one has the question.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Callable

from ..messages import Answer, Ask, Begun, Done, Failed, Problem, Text
from .answer_text import AnswerText, Differs


class AcceptedQuestion:
    """Implements `questions.OpenQuestion`. Used from one event loop.

    ask: the question, with the id that the HTTP side gave it; the messages for the client carry this id.
    on_cancel: is called once if the client cancels before the end.
    losses: how many processes have died with this question.
    is_suspect: it may have been the cause. It is asked alone then, so that no other question is lost with it.
    """

    def __init__(self, ask: Ask, on_cancel: Callable[[AcceptedQuestion], None]) -> None:
        self.ask = ask
        self.losses = 0
        self.is_suspect = False
        self.has_ended = False
        self._on_cancel = on_cancel
        self._text = AnswerText()
        self._has_begun = False
        self._messages: deque[Answer] = deque()
        self._news = asyncio.Event()

    async def answers(self) -> AsyncIterator[Answer]:
        """See `OpenQuestion.answers`. Can be iterated once; leaving the iteration early cancels the question.

        After `cancel` the iteration ends without a further message.
        """
        try:
            while True:
                while self._messages:
                    message = self._messages.popleft()
                    yield message
                    if isinstance(message, Done | Failed):
                        return
                if self.has_ended:
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """See `OpenQuestion.cancel`."""
        if self.has_ended:
            return
        self.has_ended = True
        self._messages.clear()
        self._news.set()
        self._on_cancel(self)

    def receive(self, answer: Answer) -> None:
        """Take a message of a device process. After it, `has_ended` says whether it was the last one."""
        if self.has_ended:
            return
        try:
            self._receive(dataclasses.replace(answer, id=self.ask.id))
        except Differs as error:
            self.fail(Problem.DEVICE, str(error))

    def fail(self, problem: Problem, message: str) -> None:
        """End the question without an answer."""
        if not self.has_ended:
            self._end(Failed(self.ask.id, problem, message))

    def _receive(self, answer: Answer) -> None:
        if isinstance(answer, Begun):
            if not self._has_begun:
                self._has_begun = True
                self._put(answer)
        elif isinstance(answer, Text):
            self._put_text(self._text.rest(answer.begin, answer.text))
        elif isinstance(answer, Done):
            if self.ask.streams:
                self._put_text(self._text.rest_of_whole(answer.text))
            self._end(answer)
        else:
            self._end(answer)

    def _put_text(self, text: str) -> None:
        if not text:
            return
        part = self._text.append(self.ask.id, text)
        last = self._messages[-1] if self._messages else None
        if isinstance(last, Text):  # the client is slow: it gets both parts as one
            self._messages[-1] = dataclasses.replace(last, text=last.text + part.text)
        else:
            self._put(part)

    def _end(self, answer: Done | Failed) -> None:
        self.has_ended = True
        self._put(answer)

    def _put(self, answer: Answer) -> None:
        self._messages.append(answer)
        self._news.set()
