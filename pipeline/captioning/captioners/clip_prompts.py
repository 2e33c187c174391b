"""The prompts about a clip as token ids around its visual blocks: the same for all clips, or made for each.

Imports no framework. Knows nothing about templates and model families.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence

from ..clips.clip import Clip
from ..meta.asks import Asks
from ..process.errors import UsageError
from .prompts import DEFAULT_QUESTION, NO_IMAGES, check_prompt_part

_CELLS = ("", "What", "0")
"""Cells of a table that begin differently, for the common beginning of prompts with cells."""
_MOST_KNOWN = 1000
"""Prompts with the times of frames or with cells differ from clip to clip, so only these many are kept."""
LONGEST_KNOWN = 8000
"""Prompts with more characters are not kept: a request may have any length."""


class ClipPrompts:
    """Tokenized prompts.

    tokenize: token ids around the visual blocks of a prompt text.
    text: makes the prompt that asks a question about a clip, with a placeholder for each block. The third argument is
        the system prompt, or None for that of the run.
    samples: clips whose prompts differ as much as those of a run may differ; the common beginning of their prompts is
        shared.
    asks: what is asked about every clip.
    special_token: returns a special token that a text contains, or ''. Questions of the table and of requests, and the
        system prompts of requests, may contain none: such a token could end the prompt or change its turns.
    images_text: the same as `text` for a number of still images; None if a prompt can't have several.

    Raises:
        UsageError: a prompt has too few or too many placeholders.
    """

    def __init__(
        self,
        tokenize: Callable[[str], list[list[int]]],
        text: Callable[[Clip, str, str | None], str],
        samples: Sequence[Clip],
        asks: Asks,
        special_token: Callable[[str], str] = lambda text: "",
        images_text: Callable[[int, str, str | None], str] | None = None,
    ) -> None:
        self._tokenize, self._text, self._images_text = tokenize, text, images_text
        self.asks, self._special_token = asks, special_token
        self._common_questions = frozenset(asks.texts)
        self._known: dict[str, list[list[int]]] = {}
        beginnings = [self.pieces(clip, question)[0] for clip in samples for question in asks.texts]
        for clip in samples:
            for question in _examples(asks):
                with contextlib.suppress(UsageError):  # some families have no prompt for a blank question
                    beginnings.append(self.pieces(clip, question)[0])
        self.shared_prefix: tuple[int, ...] = tuple(beginnings[0][: common_beginning(beginnings)])
        """Token ids with which the prompts of all clips begin, except those of unusual cells."""

    def text(self, clip: Clip, question: str, system: str | None = None) -> str:
        """The prompt that asks a question about a clip, with a placeholder for each block.

        system: the system prompt; None for that of the run.

        Raises:
            UsageError: the text can't be made; a placeholder in the question or the system prompt is one reason.
        """
        return self._text(clip, question, system)

    def pieces(self, clip: Clip, question: str, system: str | None = None) -> list[list[int]]:
        """Token ids before, between and after the blocks of a clip.

        system: the system prompt; None for that of the run.

        Raises:
            UsageError: the prompt has too few or too many placeholders, its text can't be made, the question is not one
                of the run and is blank, or contains a special token, or the system prompt is not that of the run and
                contains one.
        """
        return self._checked_pieces(self.text(clip, question, system), question, system)

    @property
    def has_images(self) -> bool:
        """Whether a prompt can have several still images."""
        return self._images_text is not None

    def image_pieces(self, images: int, question: str, system: str | None = None) -> list[list[int]]:
        """Token ids before, between and after the blocks of several still images, each with one block.

        images: number of images.

        Raises:
            UsageError: see `pieces`; or a prompt can't have several images.
        """
        if self._images_text is None:
            raise UsageError(NO_IMAGES)
        return self._checked_pieces(self._images_text(images, question, system), question, system)

    def _checked_pieces(self, text: str, question: str, system: str | None) -> list[list[int]]:
        """The token ids of a prompt. question, system: of the prompt; placeholders in them were refused before."""
        if question not in self._common_questions:
            if not question.strip():
                raise UsageError("the question is blank")
            self._check_no_special_token("the question", question)
        if system is not None:
            self._check_no_special_token("the system prompt", system)
        if len(text) > LONGEST_KNOWN:
            return self._tokenize(text)
        if text not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known[text] = self._tokenize(text)
        return self._known[text]

    def _check_no_special_token(self, name: str, text: str) -> None:
        """name: of the part of the prompt, for the message."""
        token = self._special_token(text)
        if token:
            raise UsageError(f"{name} contains {token}, a special token of the model; remove it")

    def most_tokens(self, clip: Clip) -> int:
        """Text tokens in the longest prompt of those that ask about every clip."""
        return max(sum(map(len, self.pieces(clip, question))) for question in self.asks.texts)


def common_beginning(sequences: Sequence[Sequence[int]]) -> int:
    """Number of tokens with which all sequences begin."""
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns))


def check_questions(
    asks: Asks, placeholders: Sequence[str], default_question: str = DEFAULT_QUESTION, system: str | None = None
) -> None:
    """Check that no question of a flag is blank, and that no question and not the system prompt contain a placeholder
    of the clip. Cells of the table are not checked.

    placeholders: of images and videos; empty ones are ignored.
    default_question: of the family; this one may be blank.
    system: the value of `--system`; None if it was not given.

    Raises:
        UsageError: names the flag.
    """
    for placeholder in filter(None, placeholders):
        check_prompt_part("--system", system or "", placeholder)
    for ask, text in zip(asks.asks, asks.texts, strict=True):
        if not text.strip() and text != default_question:
            raise UsageError(f"the question of {ask.flag} is blank; write a question, or leave {ask.flag} out")
        for placeholder in filter(None, placeholders):
            check_prompt_part(ask.flag, text, placeholder)


def _examples(asks: Asks) -> list[str]:
    """Questions about some rows, if these differ from row to row."""
    if not asks.cell_columns:
        return []
    return [question for cell in _CELLS for question in asks.questions([cell] * len(asks.cell_columns))]
