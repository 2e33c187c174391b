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
from .prompts import DEFAULT_QUESTION, check_prompt_part

_CELLS = ("", "What", "0")
"""Cells of a table that begin differently, for the common beginning of prompts with cells."""
_MOST_KNOWN = 1000
"""Prompts with the times of frames or with cells differ from clip to clip, so only these many are kept."""


class ClipPrompts:
    """Tokenized prompts.

    tokenize: token ids around the visual blocks of a prompt text.
    text: the prompt that asks a question about a clip, with a placeholder for each block.
    samples: clips whose prompts differ as much as those of a run may differ; the common beginning of their prompts is
        shared.
    asks: what is asked about every clip.
    special_token: returns a special token that a text contains, or ''. Questions of the table may contain none: such a
        token could end the prompt or change its turns.

    Raises:
        UsageError: a prompt has too few or too many placeholders.
    """

    def __init__(
        self,
        tokenize: Callable[[str], list[list[int]]],
        text: Callable[[Clip, str], str],
        samples: Sequence[Clip],
        asks: Asks,
        special_token: Callable[[str], str] = lambda text: "",
    ) -> None:
        self._tokenize, self.text, self.asks, self._special_token = tokenize, text, asks, special_token
        self._common_questions = frozenset(asks.texts)
        self._known: dict[str, list[list[int]]] = {}
        beginnings = [self.pieces(clip, question)[0] for clip in samples for question in asks.texts]
        for clip in samples:
            for question in _examples(asks):
                with contextlib.suppress(UsageError):  # some families have no prompt for a blank question
                    beginnings.append(self.pieces(clip, question)[0])
        self.shared_prefix: tuple[int, ...] = tuple(beginnings[0][: common_beginning(beginnings)])
        """Token ids with which the prompts of all clips begin, except those of unusual cells."""

    def pieces(self, clip: Clip, question: str) -> list[list[int]]:
        """Token ids before, between and after the blocks of a clip.

        Raises:
            UsageError: the prompt has too few or too many placeholders, its text can't be made, or the question comes
                from the table and is blank or contains a special token.
        """
        text = self.text(clip, question)  # refuses the placeholder of the clip
        if question not in self._common_questions:
            self._check_of_table(question)
        if text not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known[text] = self._tokenize(text)
        return self._known[text]

    def _check_of_table(self, question: str) -> None:
        """Check a question that contains cells of the table.

        Raises:
            UsageError: it is blank, or contains a special token.
        """
        if not question.strip():
            raise UsageError("the question is blank, because its cells are")
        token = self._special_token(question)
        if token:
            raise UsageError(f"the question contains {token}, a special token of the model; remove it")

    def most_tokens(self, clip: Clip) -> int:
        """Text tokens in the longest prompt of those that ask about every clip."""
        return max(sum(map(len, self.pieces(clip, question))) for question in self.asks.texts)


def common_beginning(sequences: Sequence[Sequence[int]]) -> int:
    """Number of tokens with which all sequences begin."""
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns))


def check_questions(asks: Asks, placeholders: Sequence[str], default_question: str = DEFAULT_QUESTION) -> None:
    """Check that no question is blank or contains a placeholder of the clip. Cells of the table are not checked.

    placeholders: of images and videos; empty ones are ignored.
    default_question: of the family; this one may be blank.

    Raises:
        UsageError: names the flag of the question.
    """
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
