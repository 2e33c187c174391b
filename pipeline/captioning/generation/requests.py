"""The interface of an engine: requests go in, tokens and ends of requests come out. Imports no framework.

Knows nothing about clips and tokenizers: a prompt is embeddings, an answer is token ids.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable
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
class Request:
    """A prompt with everything that its answer depends on.

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

    @property
    def length(self) -> int:
        """Tokens of the prompt, without the shared prefix."""
        return int(self.positions.shape[-1])


class EndReason(enum.Enum):
    """Why a request has ended: STOP and LENGTH with an answer, the others with an error message."""

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
    """One generated token; may be a stop id."""

    key: Hashable
    id: int


@dataclass(frozen=True)
class End:
    """The end of a request.

    ids: all generated tokens, including the stop id.
    message: the error message; empty if the request ended without an error.
    """

    key: Hashable
    ids: list[int]
    reason: EndReason
    message: str = ""

    @property
    def is_error(self) -> bool:
        return self.reason in (EndReason.TOO_LONG, EndReason.NOT_A_NUMBER)


Event = Token | End


def end_if_too_long(request: Request, prompt_tokens: int, limit: LengthLimit) -> End | None:
    """The end of a request that is too long for the model; None if it fits.

    prompt_tokens: tokens of the prompt, with the shared prefix.
    """
    problem = limit.problem(prompt_tokens, request.options.max_new_tokens)
    return None if problem is None else End(request.key, [], EndReason.TOO_LONG, problem)


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
        """Remove a request; no further event is returned for it. Returns whether the engine had it."""

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
