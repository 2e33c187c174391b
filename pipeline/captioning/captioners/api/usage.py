"""Counts requests, tokens, cost and outcomes of a run. Knows nothing about the network."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .answer import Answer
from .options import Prices

ESTIMATE_AFTER = 20
"""Questions, or answers, after which the figures of a run are enough for an estimate."""


@dataclass
class Usage:
    """The figures of this run.

    prices: None if unknown.
    spent_before: prompt and completion tokens of answers of the same, interrupted run. They count toward `max_cost`.
    answers_before: number of these answers. first_tokens: prompt and completion tokens of the first answer of this run,
        which may still be waiting for the disk.
    answers: paid in this run. stored: answers of the store that were used. requests: sent. retries: sent again.
    without_usage: answers of this run for which the service reported no usage; they add nothing to tokens and cost.
    outcomes: number of results by outcome: `success`, `truncated`, and the stages of `errors`.
    """

    prices: Prices | None = None
    spent_before: tuple[int, int] = (0, 0)
    answers_before: int = 0
    first_tokens: tuple[int, int] | None = None
    answers: int = 0
    stored: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def has_answers(self) -> bool:
        """Whether an answer has been paid in this run, or in an interrupted one that it resumes."""
        return self.answers > 0 or self.answers_before > 0

    @property
    def knows_an_answer(self) -> bool:
        """Whether it is known what an answer costs, from this run or from an interrupted one that it resumes."""
        return self.has_answers or self.first_tokens is not None

    def add(self, answer: Answer) -> None:
        """Count a paid answer."""
        self.answers += 1
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.without_usage += not answer.has_usage

    def cost(self) -> float | None:
        """The cost of this run and of the interrupted run that it resumes; None without prices."""
        return self._cost_of(*self._tokens())

    def expected_tokens(self, default: float) -> tuple[float, float]:
        """Prompt and completion tokens that one answer takes, by the answers so far.

        default: prompt tokens, as long as no answer has a usage.
        """
        counted = self.answers - self.without_usage
        if counted:
            return self.prompt_tokens / counted, self.completion_tokens / counted
        if self.first_tokens is not None:
            return self.first_tokens
        if self.answers_before:
            prompt, completion = self.spent_before
            return prompt / self.answers_before, completion / self.answers_before
        return default, 0.0

    @property
    def has_budget(self) -> bool:
        """Whether there is a `max_cost`."""
        return self.prices is not None and self.prices.max_cost is not None

    @property
    def is_never_reported(self) -> bool:
        """Whether none of many answers has a usage, so that nobody knows the cost."""
        return self.answers >= ESTIMATE_AFTER and self.without_usage == self.answers

    def may_send(self, in_flight: int) -> bool:
        """Whether another request is within `max_cost`, if those in flight cost as much as the mean.

        So do answers without a usage. The first answer has no mean before it: it may exceed `max_cost`.
        """
        if self.prices is None or self.prices.max_cost is None:
            return True
        if self.is_never_reported:
            return False
        mean = self.prices.cost(*self.expected_tokens(0.0))
        spent = self.prices.cost(*self._tokens())
        expected = spent + (self.without_usage + in_flight + 1) * mean
        return spent < self.prices.max_cost and expected <= self.prices.max_cost

    def why_not_sent(self) -> str:
        """Why `may_send` is false, and what to do."""
        assert self.prices is not None and self.prices.max_cost is not None
        limit = f"--max_cost {self.prices.max_cost:g}"
        if self.is_never_reported:
            return (
                f"{limit} can't be kept: the answers of the service have no usage. To go on, run the same command "
                "without --max_cost"
            )
        spent = cost_text(self.prices.cost(*self._tokens()))
        return (
            f"{limit} is reached: {spent} is spent, and one more request could exceed it. To go on, run the same "
            "command with a larger --max_cost"
        )

    @property
    def asked(self) -> int:
        """Questions that were asked in this run and have a result. One may take no answer, one, or two."""
        return self.outcomes.total() - self.stored

    def estimate(self, remaining: int) -> str:
        """Tokens and cost of the whole run, as text, if `remaining` more questions are like those `asked` so far."""
        if self.answers == self.without_usage:
            return "tokens unknown: the service reports no usage"
        prompt, completion = self._tokens()
        mean_prompt, mean_completion = self.expected_tokens(0.0)
        # Answers of a batch arrive before any question has its result.
        more = remaining * self.answers / (self.asked or self.answers) + self.without_usage
        return "about " + self._text(prompt + more * mean_prompt, completion + more * mean_completion)

    def text(self) -> str:
        """Tokens and cost so far, for a line of progress: of this run and of the interrupted run that it resumes."""
        return self._text(*self._tokens())

    def report(self) -> dict[str, Any]:
        """The figures for the report of the run: plain JSON values. `cost` is that of this run alone."""
        figures: dict[str, Any] = {
            "requests": self.requests,
            "retries": self.retries,
            "answers_paid": self.answers,
            "answers_from_store": self.stored,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "answers_without_usage": self.without_usage,
            "outcomes": dict(sorted(self.outcomes.items())),
        }
        if self.prices is not None:
            figures["cost"] = self._cost_of(self.prompt_tokens, self.completion_tokens)
            if any(self.spent_before):
                figures["cost_with_interrupted_runs"] = self.cost()
            figures["price_in"], figures["price_out"] = self.prices.price_in, self.prices.price_out
        return figures

    def _tokens(self) -> tuple[int, int]:
        return self.spent_before[0] + self.prompt_tokens, self.spent_before[1] + self.completion_tokens

    def _cost_of(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        return None if self.prices is None else round(self.prices.cost(prompt_tokens, completion_tokens), 6)

    def _text(self, prompt_tokens: float, completion_tokens: float) -> str:
        text = f"{prompt_tokens:,.0f} tokens in, {completion_tokens:,.0f} out"
        cost = self._cost_of(prompt_tokens, completion_tokens)
        return text if cost is None else f"{text}, cost {cost_text(cost)}"


def cost_text(amount: float) -> str:
    """An amount of money: `1,234.50`; below 1 with four decimals, because a caption costs much less than a cent."""
    return f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:.4f}"
