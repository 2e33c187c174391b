"""The options for choosing token ids. Imports no framework."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..process.errors import UsageError


@dataclass(frozen=True)
class GenerationOptions:
    """How the tokens of an answer are chosen.

    max_new_tokens: maximum number of tokens, including the end-of-sequence token.
    num_beams: beams of the beam search; 1 means no beam search.
    temperature: divides the logits before sampling; 0 means greedy decoding.
    do_sample: sample instead of greedy decoding; implied by a temperature other than 0 and 1.
    top_p: sample from the smallest set of tokens whose probabilities add up to at least top_p.
    seed: the seed and the request's stream determine the random numbers.
    repetition_penalty: divides positive logits of tokens that occurred before and multiplies negative ones, as in
        transformers; None means the checkpoint's own, or 1 (no penalty) if it has none.
    no_repeat_ngram_size: no n-gram of this size occurs twice; 0 means no such rule, None means the checkpoint's own,
        or no rule if it has none.
    """

    max_new_tokens: int = 200
    num_beams: int = 1
    temperature: float = 1.0
    do_sample: bool = False
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None

    def __post_init__(self) -> None:
        if self.num_beams > 1 and self.samples:
            raise UsageError(
                f"--num_beams {self.num_beams} does not go with sampling; leave out --do_sample and --temperature"
            )

    @property
    def samples(self) -> bool:
        return self.temperature != 0 and (self.do_sample or self.temperature != 1.0)

    @property
    def penalty(self) -> float:
        """The repetition penalty in effect; 1 means none."""
        return 1.0 if self.repetition_penalty is None else self.repetition_penalty

    @property
    def ngram_size(self) -> int:
        """The n-gram size in effect; 0 means no rule."""
        return self.no_repeat_ngram_size or 0

    def with_defaults(self, repetition_penalty: float | None, no_repeat_ngram_size: int | None) -> GenerationOptions:
        """A copy of these options, with a checkpoint's values in place of None."""
        own_penalty, own_size = self.repetition_penalty, self.no_repeat_ngram_size
        return dataclasses.replace(
            self,
            repetition_penalty=repetition_penalty if own_penalty is None else own_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size if own_size is None else own_size,
        )

    def fingerprint(self) -> str:
        """Everything that the chosen tokens depend on, as text. Journals store it, so its format must not change."""
        text = f"max_new_tokens={self.max_new_tokens} num_beams={self.num_beams}"
        if self.samples:
            text += f" temperature={self.temperature} top_p={self.top_p} seed={self.seed}"
        if self.penalty != 1:
            text += f" repetition_penalty={self.penalty}"
        if self.ngram_size:
            text += f" no_repeat_ngram_size={self.ngram_size}"
        return text
