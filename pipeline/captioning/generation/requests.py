"""What goes into an engine and what comes out: requests, tokens and ends; framework-free.

Knows no clip and no tokenizer: a prompt is embeddings, an answer is token ids.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .options import GenerationOptions

if TYPE_CHECKING:
    import torch


OVERFLOW_MESSAGE = "the model's output is not a number; a --dtype of wider range may hold what overflows"
"""Why an answer ends with NOT_A_NUMBER."""


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt with everything that its answer depends on.

    key: names the request in all events; no two requests of an engine have the same at the same time.
    embeddings: (tokens, width), on the model's device; without the shared prefix.
    positions: of these tokens, int64, (tokens,), or (3, tokens) for models with three position axes.
    next_position: of the first generated token; the following tokens count on from there, on every axis.
    options: how tokens are chosen.
    stop_ids: tokens that end the answer.
    has_prefix: the prompt begins with the engine's shared prefix.
    counted_ids: token ids that count as generated already for the repetition penalty and the n-gram rule:
        those of the prompt, or none.
    stream: with the seed it names the request's random numbers.
    """

    key: Hashable
    embeddings: torch.Tensor
    positions: np.ndarray
    next_position: int
    options: GenerationOptions
    stop_ids: frozenset[int]
    has_prefix: bool = False
    counted_ids: tuple[int, ...] = ()
    stream: int = 0

    @property
    def length(self) -> int:
        """Tokens of the prompt, without the shared prefix."""
        return int(self.positions.shape[-1])


class EndReason(enum.Enum):
    """Why a request has ended. STOP and LENGTH give an answer, the others an error message."""

    STOP = "stop"
    """A stop id was generated; it is the last of the answer's ids."""
    LENGTH = "length"
    """`max_new_tokens` tokens were generated."""
    TOO_LONG = "too long"
    """Prompt and answer do not fit the model; nothing was computed."""
    NOT_A_NUMBER = "not a number"
    """The model's output overflowed."""


@dataclass(frozen=True)
class Token:
    """One generated token, stop ids included."""

    key: Hashable
    id: int


@dataclass(frozen=True)
class End:
    """The end of a request.

    ids: all tokens generated, the stop id included.
    message: what went wrong, if `reason` is an error.
    """

    key: Hashable
    ids: list[int]
    reason: EndReason
    message: str = ""

    @property
    def is_error(self) -> bool:
        return self.reason in (EndReason.TOO_LONG, EndReason.NOT_A_NUMBER)


Event = Token | End


def refusal(request: Request, prompt_tokens: int, max_positions: int) -> End | None:
    """The end of a request that does not fit the model. prompt_tokens: with a shared prefix."""
    most = request.options.max_new_tokens
    length = prompt_tokens + most
    if length <= max_positions:
        return None
    message = (
        f"{prompt_tokens} tokens of the prompt and --max_new_tokens {most} make {length}; the model was made for "
        f"{max_positions}: lower one of them"
    )
    return End(request.key, [], EndReason.TOO_LONG, message)


class Engine(Protocol):
    """Generates token ids for many requests at once; driven step by step, from one thread.

    on_token: called during a step that generates many tokens, whenever it has generated one.
    """

    on_token: Callable[[], None]

    def add(self, request: Request) -> None:
        """Take a request; its events come from the following steps.

        Raises:
            ValueError: a request with this key is there already, or it asks for what this engine does not do.
        """

    def step(self) -> list[Event]:
        """Do one piece of work; returns what it generated and what has ended, in order; nothing if there is no work.

        An engine whose step has raised an error is of no further use: its requests go to a new one.
        """

    def cancel(self, key: Hashable) -> bool:
        """Forget a request, without any further event of it; returns whether it was there."""

    @property
    def free(self) -> int:
        """Requests that can be added and need not wait for another's end."""

    @property
    def active(self) -> int:
        """Requests added and not ended, those that wait for their first step included."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a prefill; while there are some, preparing more only takes memory."""

    @property
    def requests_needed(self) -> int:
        """Further requests without which the next step is not worth taking, as long as there may be more."""
