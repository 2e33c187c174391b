"""How token ids are chosen; framework-free."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class GenerationOptions:
    """Decoding of captions.

    max_new_tokens: at most so many tokens, the end-of-sequence token included.
    num_beams: beams of the beam search; 1 for none.
    temperature: divides the logits before sampling; 0 is greedy.
    do_sample: sample; implied by a temperature other than 1 and 0.
    top_p: sample from the smallest set of tokens with at least this probability.
    seed: with the row it fixes what is sampled.
    """

    max_new_tokens: int = 200
    num_beams: int = 1
    temperature: float = 1.0
    do_sample: bool = False
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_beams > 1 and self.samples:
            raise UsageError(
                f"--num_beams {self.num_beams} does not go with sampling; leave out --do_sample and --temperature"
            )

    @property
    def samples(self) -> bool:
        return self.temperature != 0 and (self.do_sample or self.temperature != 1.0)

    def fingerprint(self) -> str:
        text = f"max_new_tokens={self.max_new_tokens} num_beams={self.num_beams}"
        if self.samples:
            text += f" temperature={self.temperature} top_p={self.top_p} seed={self.seed}"
        return text
