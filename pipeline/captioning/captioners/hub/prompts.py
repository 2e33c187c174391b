"""The prompt of a clip as token ids around its visual blocks; the same for all clips, or made for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...clips.clip import Clip
from ..tokenizer import CheckpointTokenizer


class ClipPrompts:
    """Tokenized prompts.

    tokenize: token ids around the visual blocks of a prompt text.
    text: the prompt of a clip, with a placeholder for each block.
    samples: clips whose prompts differ as much as those of a run may differ; their common beginning is shared.
    """

    def __init__(
        self, tokenize: Callable[[str], list[list[int]]], text: Callable[[Clip], str], samples: Sequence[Clip]
    ) -> None:
        self._tokenize, self.text = tokenize, text
        self._known: dict[str, list[list[int]]] = {}
        columns = zip(*(self.pieces(clip)[0] for clip in samples), strict=False)
        common = itertools.takewhile(lambda ids: len(set(ids)) == 1, columns)
        self.shared_prefix: tuple[int, ...] = tuple(ids[0] for ids in common)
        """Token ids with which the prompts of all clips begin."""

    def pieces(self, clip: Clip) -> list[list[int]]:
        """Token ids before, between and after the blocks of a clip."""
        text = self.text(clip)
        if text not in self._known:
            if len(self._known) > 1000:  # prompts with times differ from clip to clip
                self._known.clear()
            self._known[text] = self._tokenize(text)
        return self._known[text]


@dataclass(frozen=True)
class HubPrompt:
    """How the prompts of a run are made.

    prompts: the tokenized prompts. description: which template makes them, for the log and the fingerprint.
    tokenizer: of the checkpoint.
    counts_prompt: whether tokens of the prompt count for the repetition penalty and the n-gram rule.
    visual_token: id of the token that the published program has in place of each visual token; None if it has none.
    image_token: the same for still images.
    """

    prompts: ClipPrompts
    description: str
    tokenizer: CheckpointTokenizer
    counts_prompt: bool
    visual_token: int | None = None
    image_token: int | None = None
