"""Tokens, cost, budget and the texts that state them."""

from __future__ import annotations

import json

import pytest

from pipeline.captioning.captioners.api.answer import Answer
from pipeline.captioning.captioners.api.options import Prices
from pipeline.captioning.captioners.api.usage import ESTIMATE_AFTER, Usage, cost_text

PRICES = Prices(price_in=2.0, price_out=10.0)


def paid(usage: Usage, count: int = 1, prompt: int = 1000, completion: int = 100) -> Usage:
    for _ in range(count):
        usage.add(Answer("a", prompt_tokens=prompt, completion_tokens=completion))
    return usage


def test_cost_counts_the_interrupted_run() -> None:
    usage = paid(Usage(PRICES, spent_before=(1_000_000, 0)))
    assert usage.cost() == pytest.approx(2.0 + 0.003)


def test_no_prices_no_cost() -> None:
    usage = paid(Usage())
    assert usage.cost() is None
    assert usage.may_send(1000)
    assert usage.text() == "1,000 tokens in, 100 out"
    assert not {"cost", "price_in", "cost_with_interrupted_runs"} & set(usage.report())


def test_text_has_separators_and_cost() -> None:
    assert paid(Usage(PRICES), 12).text() == "12,000 tokens in, 1,200 out, cost 0.0360"


@pytest.mark.parametrize(("amount", "text"), [(0.0, "0.00"), (0.00012, "0.0001"), (1.234, "1.23"), (1e3, "1,000.00")])
def test_cost_text(amount: float, text: str) -> None:
    assert cost_text(amount) == text


def test_expected_tokens_are_the_mean_of_answers_with_usage() -> None:
    usage = Usage()
    assert usage.expected_tokens(700.0) == (700.0, 0.0)
    paid(usage, prompt=1000)
    paid(usage, prompt=2000, completion=300)
    usage.add(Answer("no usage", has_usage=False))
    assert usage.expected_tokens(700.0) == (1500.0, 200.0)


def test_estimate_of_the_whole_run() -> None:
    usage = paid(Usage(PRICES, spent_before=(5000, 500)), ESTIMATE_AFTER)
    usage.outcomes["success"] += ESTIMATE_AFTER
    assert usage.estimate(980) == "about 1,005,000 tokens in, 100,500 out, cost 3.02"


def test_estimate_counts_questions_and_not_answers() -> None:
    """20 questions: five were asked twice, five failed without an answer; 30 others had stored answers."""
    usage = paid(Usage(PRICES), 20)
    usage.outcomes.update({"success": 45, "service": 5})
    usage.stored = 30
    assert usage.asked == 20
    assert usage.estimate(980) == "about 1,000,000 tokens in, 100,000 out, cost 3.00"
    usage = paid(Usage(), 40)
    usage.outcomes["success"] += 20
    assert usage.estimate(20) == "about 80,000 tokens in, 8,000 out", "each was asked twice, and so are the others"


def test_estimate_without_any_usage() -> None:
    usage = Usage(PRICES)
    usage.add(Answer("a", has_usage=False))
    assert "no usage" in usage.estimate(10)


def test_budget_leaves_room_for_requests_in_flight() -> None:
    usage = paid(Usage(Prices(2.0, 10.0, max_cost=0.030)), 5)  # 0.003 each: ten are within the budget
    assert usage.may_send(4)
    assert not usage.may_send(5)


def test_budget_is_used_up_by_an_interrupted_run() -> None:
    assert not Usage(Prices(2.0, 10.0, max_cost=1.0), spent_before=(500_000, 0)).may_send(0)
    assert Usage(Prices(2.0, 10.0, max_cost=1.0), spent_before=(499_999, 0)).may_send(0)


def test_budget_counts_answers_without_usage_as_the_mean() -> None:
    usage = paid(Usage(Prices(2.0, 10.0, max_cost=0.0061)))
    assert usage.may_send(0)
    usage.add(Answer("a", has_usage=False))
    assert not usage.may_send(0)


def test_budget_ends_a_run_whose_cost_nobody_knows() -> None:
    usage = Usage(Prices(2.0, 10.0, max_cost=1.0))
    for _ in range(ESTIMATE_AFTER):
        assert usage.may_send(0)
        usage.add(Answer("a", has_usage=False))
    assert usage.is_never_reported and not usage.may_send(0)


def test_report_is_plain_json() -> None:
    usage = paid(Usage(PRICES, spent_before=(1_000_000, 10)), 2)
    usage.requests, usage.retries, usage.stored = 3, 1, 7
    usage.outcomes["truncated"] += 1
    usage.outcomes["success"] += 1
    report = usage.report()
    assert (
        json.loads(json.dumps(report))
        == report
        == {
            "requests": 3,
            "retries": 1,
            "answers_paid": 2,
            "answers_from_store": 7,
            "prompt_tokens": 2000,
            "completion_tokens": 200,
            "answers_without_usage": 0,
            "outcomes": {"success": 1, "truncated": 1},
            "cost": 0.006,
            "cost_with_interrupted_runs": 2.0061,
            "price_in": 2.0,
            "price_out": 10.0,
        }
    )


def test_report_of_a_run_that_resumes_nothing() -> None:
    assert "cost_with_interrupted_runs" not in Usage(PRICES).report()
