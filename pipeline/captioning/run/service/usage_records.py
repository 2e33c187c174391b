"""Records tokens and cost in the journal while a run goes on, for `progress`."""

from __future__ import annotations

import time

from ...captioners.api.usage import Usage
from ...journal.journal import Journal

_SECONDS = 10.0
"""Time between two records."""


class UsageRecords:
    """The records of one session: the figures since it began, without those of interrupted runs."""

    def __init__(self, usage: Usage, journal: Journal) -> None:
        self._usage, self._journal = usage, journal
        self._recorded_at = time.monotonic()

    def add_if_due(self) -> None:
        if time.monotonic() - self._recorded_at >= _SECONDS:
            self.add()

    def add(self) -> None:
        self._recorded_at = time.monotonic()
        usage, prices = self._usage, self._usage.prices
        figures: dict[str, float] = {
            "answers": usage.answers,
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }
        if prices is not None:
            figures["cost"] = prices.cost(usage.prompt_tokens, usage.completion_tokens)
        self._journal.record_usage(figures)
