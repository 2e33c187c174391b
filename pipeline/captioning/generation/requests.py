"""The interface of an engine: requests go in, tokens and ends of requests come out. Imports no framework.

Knows nothing about clips and tokenizers: a prompt is embeddings, an answer is token ids.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .length_limit import LengthLimit
from .options import GenerationOptions

if TYPE_CHECKING:
    import torch


OVERFLOW_MESSAGE = "the model's output is not a number: a value overflowed; try a --dtype with a wider range"
"""The message of an End with the reason NOT_A_NUMBER."""


@dataclass(frozen=True, eq=False)
class FollowUp:
    """A further question about the beginning of a request's prompt.

    It is answered in the same slot after the question before it. Its answer is that of a request of its own, whose
    prompt consists of the first `shared` tokens of the request and of this text.

    question: number of the question, which its events carry; unique within the request.
    embeddings: (tokens, width), on the model's device: the text after the request's first `shared` tokens, at least
        one token.
    positions: positions of these tokens, int64, (tokens,) or (3, tokens), as in the request.
    next_position, history_ids: as in `Request`, for this question asked alone.
    """

    question: int
    embeddings: torch.Tensor
    positions: np.ndarray
    next_position: int
    history_ids: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return int(self.positions.shape[-1])


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt with everything that its answer depends on, and further questions about the beginning of the prompt.

    Options, stop ids and random stream are the same for all questions. The request ends with its last question.

    key: identifies the request in all events; unique among the current requests of an engine.
    embeddings: (tokens, width), on the model's device, without the shared prefix.
    positions: positions of these tokens, int64, (tokens,), or (3, tokens) for models with three position axes.
    next_position: position of the first generated token; each further token has the next position, on every axis.
    options: how tokens are chosen.
    stop_ids: token ids that end the answer.
    has_prefix: whether the prompt begins with the engine's shared prefix.
    history_ids: token ids that the repetition penalty and the n-gram rule treat as generated before the answer:
        those of the prompt, or none.
    stream: number of the request's random stream; the options' seed and the stream determine its random numbers.
    question: number of the question in the prompt, which its events carry.
    shared: number of tokens at the start of `embeddings` that the follow-ups begin with too. Their keys and values are
        computed once.
    follow_ups: the further questions, in the order in which they are answered.
    """

    key: Hashable
    embeddings: torch.Tensor
    positions: np.ndarray
    next_position: int
    options: GenerationOptions
    stop_ids: frozenset[int]
    has_prefix: bool = False
    history_ids: tuple[int, ...] = ()
    stream: int = 0
    question: int = 0
    shared: int = 0
    follow_ups: tuple[FollowUp, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the prompt, without the shared prefix."""
        return int(self.positions.shape[-1])

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt of all questions, without the shared prefix."""
        return max([self.length, *(self.shared + follow_up.length for follow_up in self.follow_ups)])

    def without(self, questions: Collection[int]) -> Request:
        """A request for the other questions, of which there is at least one; the first of them becomes its prompt."""
        follow_ups = tuple(follow_up for follow_up in self.follow_ups if follow_up.question not in questions)
        if self.question not in questions:
            return dataclasses.replace(self, follow_ups=follow_ups)
        import torch  # here, because this module is imported before a framework is chosen

        first, *rest = follow_ups
        return dataclasses.replace(
            self,
            embeddings=torch.cat([self.embeddings[: self.shared], first.embeddings]),
            positions=np.concatenate([self.positions[..., : self.shared], first.positions], -1),
            next_position=first.next_position,
            history_ids=first.history_ids,
            question=first.question,
            follow_ups=tuple(rest),
        )


class EndReason(enum.Enum):
    """Why a question has ended: STOP and LENGTH with an answer, the others with an error message."""

    STOP = "stop"
    """A stop id was generated; it is the last id of the answer."""
    LENGTH = "length"
    """`max_new_tokens` tokens were generated."""
    TOO_LONG = "too long"
    """Prompt and answer are longer than the model's longest sequence; nothing was computed."""
    NOT_A_NUMBER = "not a number"
    """The model's output overflowed."""


@dataclass(frozen=True)
class Token:
    """One generated token; may be a stop id.

    question: number of the question that it answers.
    """

    key: Hashable
    id: int
    question: int = 0


@dataclass(frozen=True)
class End:
    """The end of one question of a request; of the request, if it is the last one.

    ids: all generated tokens, including the stop id.
    message: the error message; empty if the question ended without an error.
    question: number of the question.
    """

    key: Hashable
    ids: list[int]
    reason: EndReason
    message: str = ""
    question: int = 0

    @property
    def is_error(self) -> bool:
        return self.reason in (EndReason.TOO_LONG, EndReason.NOT_A_NUMBER)


Event = Token | End


def ends_of_too_long(request: Request, prefix: int, limit: LengthLimit) -> list[End]:
    """The ends of those questions of a request that are too long for the model.

    prefix: tokens of the engine's shared prefix that the request begins with; 0 if it does not.
    """
    prompts = {follow_up.question: request.shared + follow_up.length for follow_up in request.follow_ups}
    problems = {
        question: limit.problem(prefix + prompt, request.options.max_new_tokens)
        for question, prompt in {request.question: request.length, **prompts}.items()
    }
    return [
        End(request.key, [], EndReason.TOO_LONG, problem, question) for question, problem in problems.items() if problem
    ]


class Engine(Protocol):
    """Generates token ids for many requests at the same time. The caller runs it step by step, from one thread.

    on_token: called after each token during a step that generates many tokens.
    """

    on_token: Callable[[], None]

    def add(self, request: Request) -> None:
        """Add a request; the following steps return its events.

        Raises:
            ValueError: the engine already has a request with this key, or does not support one of its options.
        """

    def step(self) -> list[Event]:
        """Run one prefill, some decoding steps, or a whole batch; returns the events in order, or none without work.

        After an error in a step the engine must not be used again; the caller adds its requests to a new engine.
        """

    def cancel(self, key: Hashable) -> bool:
        """Remove a request with all its questions; no further event is returned for it.

        Returns whether the engine had it.
        """

    @property
    def free(self) -> int:
        """Number of requests that can be added and need not wait until another one ends."""

    @property
    def active(self) -> int:
        """Number of requests that were added and have not ended, including those that wait for their first step."""

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a prefill. While it is above 0, preparing more of them only takes memory."""

    @property
    def requests_needed(self) -> int:
        """Number of further requests to add before the next step, if more requests can still come."""
