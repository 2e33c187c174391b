"""Tokens and cost of a service: added over sessions, and as text. Knows nothing about journals and reports."""

from __future__ import annotations

from collections.abc import Mapping

from ..captioners.api.usage import cost_text

COST_OF_ALL = "cost_with_interrupted_runs"


def added(first: Mapping[str, float | None], second: Mapping[str, float | None]) -> dict[str, float]:
    """The sum of each figure that at least one of them has; None counts as no figure."""
    names = dict.fromkeys([*first, *second])
    values = {name: [one for one in (first.get(name), second.get(name)) if one is not None] for name in names}
    return {name: sum(found) for name, found in values.items() if found}


def usage_text(figures: Mapping[str, float | None]) -> str:
    """For example `12,345 tokens in, 678 out, cost 1.23`.

    figures: `prompt_tokens`, `completion_tokens` and, if the prices are known, `cost`; COST_OF_ALL if the run has
        resumed others and their cost is not in `cost`.
    """
    text = f"{figures.get('prompt_tokens') or 0:,} tokens in, {figures.get('completion_tokens') or 0:,} out"
    cost, of_all = figures.get("cost"), figures.get(COST_OF_ALL)
    if cost is not None:
        text += f", cost {cost_text(cost)}"
    if of_all is not None:
        text += f" ({cost_text(of_all)} with the interrupted runs)"
    return text
