"""Counts requests, tokens, cost and outcomes of a run. Knows nothing about the network."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .answer import Answer
from .options import Prices

ESTIMATE_AFTER = 20
"""Answers after which the cost of the whole run is estimated."""


@dataclass
class Usage:
    """The figures of this run.

    prices: None if unknown.
    spent_before: prompt and completion tokens of answers of the same, interrupted run.
    answers: paid in this run. stored: answers of the store that were used. requests: sent. retries: sent again.
    outcomes: number of results by outcome: `success`, `truncated`, and the stages of `errors`.
    """

    prices: Prices | None = None
    spent_before: tuple[int, int] = (0, 0)
    answers: int = 0
    stored: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer) -> None:
        """Count a paid answer."""
        raise NotImplementedError

    def cost(self) -> float | None:
        """The cost of this run and of the interrupted run that it resumes; None without prices."""
        raise NotImplementedError

    def expected_tokens(self, default: float) -> tuple[float, float]:
        """Prompt and completion tokens that one answer takes, by the answers so far."""
        raise NotImplementedError

    def may_send(self, in_flight: int) -> bool:
        """Whether another request is within `max_cost`, if those in flight cost as much as the mean."""
        raise NotImplementedError

    def estimate(self, remaining: int) -> str:
        """Tokens and cost of the whole run, as text, if `remaining` more answers are like those so far."""
        raise NotImplementedError

    def text(self) -> str:
        """Tokens and cost so far, for a line of progress."""
        raise NotImplementedError

    def report(self) -> dict[str, Any]:
        """The figures for the report of the run."""
        raise NotImplementedError
