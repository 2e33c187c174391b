"""What a run that summarises videos through a service would send: requests, and a rough number of tokens and cost.

Sends nothing and writes nothing. Answers that are not in the store are taken to be as long as they may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...captioners.api.asker import Asker, StoredResult
from ...captioners.api.text_tokens import text_tokens
from ...captioners.api.usage import cost_text
from ...meta.results import CaptionResult
from ..planning import RankPlan
from ..summaries.row import SummaryRow, asked_video
from .summary_source import SummaryServiceSource

_WORD = "aa "
"""Counts as one token."""


@dataclass
class _Requests:
    """The requests of a run.

    sent: number of them. stored: questions that are answered in the store.
    tokens_in, tokens_out: of those that are sent.
    without_captions: videos without a caption.
    """

    sent: int = 0
    stored: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    without_captions: int = 0


def report(plan: RankPlan, source: SummaryServiceSource, asker: Callable[[int], Asker]) -> list[str]:
    """Lines for the log.

    asker: makes the asker, without a sender, of answers with at most so many tokens.
    """
    leader = plan.leader
    assert leader is not None, "a run through a service has one process"
    requests, sent = _Requests(), set[str]()
    for row in leader.plan.in_order():
        video = asked_video(leader.task_of(row), source.asks, source.settings, source.window)
        if isinstance(video, SummaryRow):
            _add(requests, video, source, asker, sent)
        else:
            requests.without_captions += 1
    lines = [
        "dry run: nothing is sent, and nothing is written",
        f"to send: about {requests.sent:,} requests about {plan.total_rows - requests.without_captions:,} videos; "
        f"{requests.stored:,} questions are answered in {source.options.answers}",
    ]
    if requests.without_captions:
        lines.append(f"{requests.without_captions:,} videos have no segment with a caption")
    if not requests.sent:
        return lines
    lines.append(f"tokens, a rough estimate: at most {requests.tokens_in:,} in, {requests.tokens_out:,} out")
    prices = source.options.prices
    if prices is None:
        return [*lines, "cost: not known; give --price_in and --price_out"]
    line = f"cost, a rough estimate: at most {cost_text(prices.cost(requests.tokens_in, requests.tokens_out))}"
    return [*lines, line if prices.max_cost is None else f"{line}; --max_cost {prices.max_cost:g} ends the run"]


def _add(
    requests: _Requests, video: SummaryRow, source: SummaryServiceSource, asker: Callable[[int], Asker], sent: set[str]
) -> None:
    """Add the requests of a video. sent: keys of requests that were counted."""
    is_known = True  # the questions do not contain an answer that is still to come
    while not video.is_answered:
        answer_tokens, next_is_known = video.answer_tokens, is_known
        for number, question in enumerate(video.ask()):
            key = source.request(question, answer_tokens).key
            found = asker(answer_tokens).next(key) if is_known else None
            if isinstance(found, StoredResult):
                requests.stored += 1
                video.answer(number, found.result)
                continue
            if not (is_known and key in sent):
                sent.add(key)
                requests.sent += 1
                requests.tokens_in += source.window.overhead + text_tokens(question)
                requests.tokens_out += answer_tokens
            next_is_known = False
            video.answer(number, CaptionResult((_WORD * answer_tokens).strip(), answer_tokens))
        is_known = next_is_known
