"""What is asked for a summary and a title, and how long prompts and answers may be."""

from __future__ import annotations

from dataclasses import dataclass

from ...long_videos.division import Window
from ...meta.asks import Ask, Asks, Question
from ...process.errors import UsageError

SUMMARY, TITLE = "summary", "title"
"""The columns of the answers."""
CAPTIONS = "captions"
"""The name under which a row's captions travel to the rank that summarises them. It is no column of the output."""
DEFAULT_SUMMARY_QUESTION = (
    "The lines above describe the parts of one video in order of time; each begins with its start and end. Write a "
    "summary of the whole video in one paragraph. Say only what the lines say."
)
DEFAULT_PART_QUESTION = (
    "The lines above describe consecutive parts of a longer video in order of time; each begins with its start and "
    "end. Write a summary of these parts in one paragraph. Say only what the lines say."
)
DEFAULT_TITLE_QUESTION = (
    "The text above is the summary of a video. Write a title of at most ten words for this video. Answer with the "
    "title only."
)
DEFAULT_CONTEXT_TOKENS = 8192
_LEAST_SHARE = 2
"""Texts must be at least so many times as long as their summary, or summaries of summaries would never end."""
_LABEL_TOKENS = 24
"""Tokens of the times before a text, at most."""


@dataclass(frozen=True)
class SummarySettings:
    """What is asked.

    summary_question, part_question, title_question: asked after the texts: of a video; of a part of a video whose texts
        do not fit into the window; after the summary.
    summary_tokens: longest summary of a video or of a part, in tokens. title_tokens: longest title.
    context_tokens: longest prompt together with its answer, in tokens; None for the window of the model, but at most
        DEFAULT_CONTEXT_TOKENS.
    system: the system prompt; empty for none.
    """

    summary_question: str = DEFAULT_SUMMARY_QUESTION
    part_question: str = DEFAULT_PART_QUESTION
    title_question: str = DEFAULT_TITLE_QUESTION
    summary_tokens: int = 200
    title_tokens: int = 40
    context_tokens: int | None = None
    system: str = ""

    def context(self, window: int) -> int:
        """The longest prompt together with its answer. window: of the model.

        Raises:
            UsageError: `context_tokens` is larger than the window.
        """
        if self.context_tokens is not None and self.context_tokens > window:
            raise UsageError(
                f"--context_tokens {self.context_tokens}: the model was made for {window} tokens; give at most {window}"
            )
        return self.context_tokens or min(window, DEFAULT_CONTEXT_TOKENS)

    def check_fits(self, window: Window) -> None:
        """Check that there is room for texts that are longer than their summary.

        Raises:
            UsageError: there is not.
        """
        room = min(
            window.room(question, self.summary_tokens) for question in (self.summary_question, self.part_question)
        )
        needed = _LEAST_SHARE * (self.summary_tokens + _LABEL_TOKENS)
        if room < needed:
            raise UsageError(
                f"a window of {window.size} tokens leaves {max(0, room)} for the captions beside the question and a "
                f"summary of {self.summary_tokens} tokens, and {needed} are needed; lower --summary_tokens, shorten "
                "the questions, or raise --context_tokens if the model allows it"
            )
        if window.room(self.title_question, self.title_tokens) < self.summary_tokens + _LABEL_TOKENS:
            raise UsageError(
                f"a window of {window.size} tokens has no room for a summary of {self.summary_tokens} tokens, the "
                f"question for the title and a title of {self.title_tokens} tokens; lower --summary_tokens"
            )

    def fingerprint(self) -> dict[str, str]:
        """What the answers depend on, without the model."""
        return {
            "prompt summary": self.summary_question,
            "prompt of parts": self.part_question,
            "prompt title": self.title_question,
            "system of summaries": self.system,
            "summary tokens": str(self.summary_tokens),
            "title tokens": str(self.title_tokens),
        }


@dataclass(frozen=True)
class SummaryAsks(Asks):
    """The two columns of a table of summaries. Their questions are asked about the captions of a row."""

    @classmethod
    def of(cls, settings: SummarySettings) -> SummaryAsks:
        return cls(
            (
                Ask(SUMMARY, Question.literal(settings.summary_question), "--summary_question"),
                Ask(TITLE, Question.literal(settings.title_question), "--title_question"),
            )
        )

    @property
    def cell_uses(self) -> dict[str, str]:
        return {CAPTIONS: "summaries are made of them"}
