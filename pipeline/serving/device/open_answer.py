"""One answer while the engine generates it: tokens and the end go in, messages to the HTTP process come out.

Knows nothing about the engine and about other answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...captioning.captioners.base import Captioner
from ...captioning.generation.requests import End, EndReason, Request
from ..messages import Answer, Ask, Begun, Done, Failed, FinishReason, Problem, Text
from .answer_text import AnswerText
from .prepare import key_of


class OpenAnswer:
    """The answer to a question.

    captioner: prepared `request`, which asks the question.
    """

    def __init__(self, ask: Ask, captioner: Captioner, request: Request) -> None:
        self._ask, self._captioner = ask, captioner
        self._prompt_tokens = captioner.prompt_tokens(request)
        self._stop_ids = request.stop_ids
        # Of a request with several prompts the tokens of all answers come mixed; the text is known at the end.
        has_one_prompt = request.embeddings.ndim == 2
        self._follows_tokens = has_one_prompt and bool(ask.streams or ask.stop)
        self._text = AnswerText(self._text_of, ask.stop)
        self._tokens = 0
        self._is_begun = False
        self.has_ended = False
        """Whether the last message was given; the request may still be in the engine."""

    def add(self, ids: Sequence[int]) -> list[Answer]:
        """The messages after further tokens. ids: with the stop token, if it is among them."""
        messages = self._begin()
        self._tokens += len(ids)
        if self._follows_tokens and not self.has_ended:
            messages += self._piece(self._text.add([i for i in ids if i not in self._stop_ids]))
            if self._text.is_stopped:
                messages.append(self._done(FinishReason.STOP))
        return messages

    def end(self, end: End) -> list[Answer]:
        """The messages at the end of the request."""
        if self.has_ended:
            return []
        if end.is_error:
            self.has_ended = True
            problem = Problem.TOO_LONG if end.reason is EndReason.TOO_LONG else Problem.MODEL
            return [Failed(self._ask.id, problem, end.message)]
        messages = self._begin()
        self._tokens = len(end.ids)
        caption = self._captioner.caption(end)
        messages += self._piece(self._text.finish(caption.text))
        is_cut = caption.truncated and not self._text.is_stopped
        return [*messages, self._done(FinishReason.LENGTH if is_cut else FinishReason.STOP)]

    def _text_of(self, ids: Sequence[int]) -> str:
        return self._captioner.caption(End(key_of(self._ask.id), list(ids), EndReason.LENGTH)).text

    def _begin(self) -> list[Answer]:
        if self._is_begun:
            return []
        self._is_begun = True
        return [Begun(self._ask.id, self._prompt_tokens)]

    def _piece(self, piece: str) -> list[Answer]:
        if not piece or not self._ask.streams:
            return []
        return [Text(self._ask.id, self._text.length - len(piece), piece)]

    def _done(self, reason: FinishReason) -> Done:
        self.has_ended = True
        return Done(self._ask.id, self._text.text, reason, self._prompt_tokens, self._tokens)
