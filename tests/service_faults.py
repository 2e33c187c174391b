"""What the test service does with a request: which fault, which answer, how many tokens. Knows nothing about HTTP.

Every decision depends only on the seed, on what was asked, and on how often it was asked before. So a run has the same
outcome whatever the order of its requests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.coded_clips import SIZE

TRANSIENT = (
    "429_seconds",
    "429_date",
    "429",
    "408",
    "409",
    "500",
    "502",
    "503",
    "hang",
    "cut_before",
    "cut_body",
    "invalid_json",
    "html",
    "no_choices",
)
"""Faults after which the same request may succeed. 429 has a Retry-After in seconds, as a date, or none; `hang` never
answers; `cut_before` ends the connection without an answer, `cut_body` in the middle of one; the last three are answers
with status 200 that can't be read."""
FIRST_BAD = ("empty", "refusal", "invalid")
"""Answers that are bad at first, and good when the question is asked once more with a note."""
ALWAYS_BAD = ("empty_always", "refusal_always", "invalid_always", "filter", "filter_400", "bad_request")
"""Answers that remain bad. `filter`: finish reason content_filter; `filter_400`: status 400 with this code."""
STAGES = {
    "empty_always": "empty",
    "refusal_always": "refused",
    "invalid_always": "invalid",
    "filter": "blocked",
    "filter_400": "blocked",
    "bad_request": "rejected",
}
"""The stage of the failure that a row with such an answer becomes."""
GOOD, LENGTH = "good", "length"
USAGES = ("missing", "null", "negative", "text")
"""What may be wrong with the usage of an answer."""
REFUSAL = "I can't describe this video."


@dataclass(frozen=True)
class Faults:
    """The configuration of the test service.

    transient: for names of TRANSIENT, the share of requests that have this fault.
    most_transient: a question gets its answer at the latest after this many faults.
    answers: for names of FIRST_BAD, ALWAYS_BAD and LENGTH, the share of questions with such an answer.
    usage: for names of USAGES, the share of questions whose answer has such a usage.
    schedule: the transient fault of single requests, by the number of the request, from 1.
    retry_after: seconds that a 429 asks for.
    key_stops_after, quota_after: for an API key, the number of answers after which it is refused, or has no quota left.
    echoes_key: whether messages of errors contain the API key.
    latency: seconds until an answer. latency_spread: share by which it is shorter or longer, different for each answer.
    limit_headers: whether answers have rate-limit headers, which make no sense.
    tokens: prompt and completion tokens of each answer; None to compute them from what was asked.
    models: that the service has.
    words: of an answer at most; None for no limit.
    """

    seed: int = 1
    transient: Mapping[str, float] = field(default_factory=dict)
    most_transient: int = 2
    answers: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, float] = field(default_factory=dict)
    schedule: Mapping[str, str] = field(default_factory=dict)
    retry_after: float = 1.0
    key_stops_after: Mapping[str, int] = field(default_factory=dict)
    quota_after: Mapping[str, int] = field(default_factory=dict)
    echoes_key: bool = False
    latency: float = 0.0
    latency_spread: float = 0.0
    limit_headers: bool = False
    tokens: Sequence[int] | None = None
    models: Sequence[str] = ("fake-vl",)
    words: int | None = None

    def __post_init__(self) -> None:
        for shares, names in (
            (self.transient, TRANSIENT),
            (self.answers, (*FIRST_BAD, *ALWAYS_BAD, LENGTH)),
            (self.usage, USAGES),
        ):
            assert set(shares) <= set(names) and sum(shares.values()) <= 1, shares
        assert set(self.schedule.values()) <= set(TRANSIENT), self.schedule

    def transient_fault(self, question: Question, sighting: int, number: int) -> str:
        """The fault of a request; empty for none.

        sighting: how often the same was asked before. number: of the request, from 1.
        """
        if str(number) in self.schedule:
            return self.schedule[str(number)]
        if sighting >= self.most_transient:
            return ""
        return self._choose(self.transient, "transient", question.key, question.attempt, sighting)

    def answer(self, question: Question) -> str:
        """GOOD, or how the answer to a question differs. A second attempt of FIRST_BAD is GOOD."""
        kind = self.kind(question.caption)
        return GOOD if question.attempt and kind in FIRST_BAD else kind

    def kind(self, caption: str) -> str:
        """What the answers to a question are like: GOOD, or a name of `answers`. caption: the right one."""
        return self._choose(self.answers, "answer", caption) or GOOD

    def usage_kind(self, question: Question) -> str:
        """What is wrong with the usage of an answer; empty for nothing."""
        return self._choose(self.usage, "usage", question.key, question.attempt)

    def tokens_of(self, question: Question, text: str) -> tuple[int, int]:
        """Prompt and completion tokens of an answer."""
        if self.tokens is not None:
            return self.tokens[0], self.tokens[1]
        return 100 * question.images + len(question.text) // 4 + 10, len(text) // 4 + 1

    def seconds(self, question: Question, sighting: int) -> float:
        """The time that an answer takes."""
        share = 2 * self._draw("latency", question.key, question.attempt, sighting) - 1
        return self.latency * (1 + self.latency_spread * share)

    def _choose(self, shares: Mapping[str, float], *what: object) -> str:
        rest = self._draw(*what)
        for name, share in shares.items():
            rest -= share
            if rest < 0:
                return name
        return ""

    def _draw(self, *what: object) -> float:
        """A number from 0 to 1 that depends only on the seed and on `what`."""
        digest = hashlib.sha256(repr((self.seed, *what)).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class Question:
    """What a request asks.

    text: the text of the user's message. images: number of images or videos.
    caption: the right answer. attempt: 1 if the question is asked once more, with a note; else 0.
    """

    text: str
    images: int
    caption: str
    attempt: int = 0

    @property
    def key(self) -> str:
        """The same for all attempts."""
        return hashlib.sha256(self.caption.encode()).hexdigest()[:16]


def caption_of(images: Sequence[str], text: str, system: str = "") -> str:
    """The right answer to a question. images: descriptions of the images, see `image_text`."""
    shown = f"{len(images)} shown: {', '.join(images)}." if images else "Nothing shown."
    return " ".join(f"{shown} Asked: {text}{f' Told: {system}' if system else ''}".split())


def image_text(size: tuple[int, int], code: int) -> str:
    """The description of an image. size: width and height; code: see `coded_clips.read_code`."""
    return f"{size[0]}x{size[1]} {code:04x}"


def expected_caption(codes: Sequence[int], text: str, size: tuple[int, int] = SIZE, system: str = "") -> str:
    """The right answer to a question about frames of coded clips. size: in which they are sent."""
    return caption_of([image_text(size, code) for code in codes], text, system)


def answer_text(kind: str, caption: str, wants_json: bool) -> str:
    """The text of an answer. kind: of `Faults.answer`. wants_json: whether a schema was given."""
    if kind.startswith("empty") or kind.startswith("refusal"):
        return ""
    if kind.startswith("invalid"):
        return '{"caption": 5}' if len(caption) % 2 else "Here is the caption: {"
    if wants_json:
        return json_answer(caption)
    return caption[: len(caption) // 2] if kind in (LENGTH, "filter") else caption


def json_answer(caption: str) -> str:
    """The right answer if a schema was given: an object with the text `caption`."""
    return json.dumps({"caption": caption}, ensure_ascii=False)


def usage_of(kind: str, tokens: tuple[int, int]) -> dict[str, Any]:
    """The field `usage` of an answer; no field if it is missing."""
    prompt, completion = tokens
    if kind == "missing":
        return {}
    if kind == "null":
        return {"usage": None}
    if kind == "negative":
        return {"usage": {"prompt_tokens": -prompt, "completion_tokens": -completion, "total_tokens": -1}}
    if kind == "text":
        return {"usage": {"prompt_tokens": "many", "completion_tokens": "few", "total_tokens": "?"}}
    total = prompt + completion
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}}
