"""Prompts that ask a question about text alone, without a clip: their texts, their tokens and what answers depend on.

Imports no framework. Knows nothing about chat templates and model families: a family makes the text of a prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..generation.options import GenerationOptions
from ..process.errors import UsageError
from .prompts import NO_TEXT
from .tokenizer import CheckpointTokenizer

_SAMPLES = ("One.", "What happens?")
"""Questions for the number of tokens of the template."""
_QUESTION = "{question}"


@dataclass(frozen=True)
class TextTemplate:
    """How the text of a prompt is made.

    render: makes the text from a question.
    source: which template it is, and why; for the log.
    placeholders: of images and videos, which a question may contain as text, but not as tokens.
    """

    render: Callable[[str], str]
    source: str
    placeholders: Sequence[str]


class TextPrompts:
    """The prompts of a checkpoint with one system prompt. Make them with `CaptionerSource.text_prompts`.

    A question is made of captions, which may contain anything. Special tokens and placeholders in it do not take
    effect: they become ordinary text, see `CheckpointTokenizer.without_control_tokens`. Names of roles that are
    ordinary text in the template too, such as `USER:`, are not changed.

    window: positions of the text model, which a prompt and its answer may use together.
    generation: how the tokens of an answer are chosen unless other options are given. Make other options from these
        with `dataclasses.replace`: they contain the penalties of the checkpoint.
    """

    def __init__(
        self,
        template: TextTemplate,
        tokenizer: CheckpointTokenizer,
        window: int,
        generation: GenerationOptions,
        stop_ids: frozenset[int],
        about_model: Mapping[str, str],
        penalties: Sequence[str],
    ) -> None:
        """
        stop_ids: token ids that end an answer.
        about_model: entries of the fingerprint about checkpoint, tokenizer and LoRA.
        penalties: lines about the penalties of `generation`, for the log.
        """
        self.window, self.generation = window, generation
        self._template, self._tokenizer, self._stop_ids = template, tokenizer, stop_ids
        self._about_model, self._penalties = about_model, penalties
        placeholders = (tokenizer.token_id(text) for text in template.placeholders)
        added_stops = stop_ids & tokenizer.added_ids  # others are words, which may be in a question
        self._control = frozenset(i for i in placeholders if i is not None) | added_stops

    def text(self, question: str) -> str:
        """The text of the prompt, as it is tokenized.

        Raises:
            UsageError: the template of the checkpoint fails.
        """
        return self._template.render(self._tokenizer.without_control_tokens(question, self._control))

    def token_ids(self, question: str) -> list[int]:
        """The token ids of the prompt, including the beginning-of-sequence token.

        Raises:
            UsageError: the template of the checkpoint fails.
        """
        return self._tokenizer.prompt_ids(self.text(question))

    def tokens(self, text: str) -> int:
        """Number of tokens of a piece of a question."""
        return self._tokenizer.count(self._tokenizer.without_control_tokens(text, self._control))

    @functools.cached_property
    def overhead(self) -> int:
        """Number of tokens of a prompt without those of its question.

        Together with `tokens` it is the length of a prompt up to a few tokens, because a token may contain characters
        of both sides of a border. `token_ids` gives the exact length.
        """
        return max(len(self.token_ids(question)) - self.tokens(question) for question in _SAMPLES)

    def fingerprint(self, options: GenerationOptions | None = None) -> dict[str, str]:
        """Everything that answers depend on, except the questions, as text.

        options: of the answers, if they are not those of `generation`.
        """
        return {
            **self._about_model,
            "text prompt": self.text(_QUESTION),
            "text prompt tokens": " ".join(map(str, self.token_ids(_QUESTION))),
            "generation": (options or self.generation).fingerprint(),
            "stop ids": str(sorted(self._stop_ids)),
        }

    def describe(self) -> list[str]:
        """Lines for the log."""
        stops = ", ".join(map(self._tokenizer.token, sorted(self._stop_ids)))
        return [
            f"prompt about text: {self._template.source}: {self.text(_QUESTION)!r}",
            f"window of the text model: {self.window} tokens for a prompt and its answer; stop tokens: {stops}",
            *self._penalties,
        ]


def no_text_prompts(system: str) -> TextPrompts:
    """In place of `CaptionerSource.text_prompts` for a model without a checkpoint."""
    raise UsageError(NO_TEXT)
