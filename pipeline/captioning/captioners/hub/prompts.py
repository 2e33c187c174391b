"""How the prompts of a checkpoint are made, besides their text. Framework-free."""

from __future__ import annotations

from dataclasses import dataclass

from ..clip_prompts import ClipPrompts
from ..family_prompts import FamilyPrompt
from ..tokenizer import CheckpointTokenizer


@dataclass(frozen=True)
class HubPrompt:
    """How the prompts of a run are made.

    prompts: the tokenized prompts. descriptions: for each question of the run, which template makes its prompt, for the
        log and the fingerprint.
    tokenizer: of the checkpoint.
    counts_prompt: whether tokens of the prompt count for the repetition penalty and the n-gram rule.
    visual_token: id of the token that the published program has in place of each visual token; None if it has none.
    image_token: the same for still images.
    family_prompt: makes the texts of prompts; None if there are no texts, only token ids.
    """

    prompts: ClipPrompts
    descriptions: tuple[str, ...]
    tokenizer: CheckpointTokenizer
    counts_prompt: bool
    visual_token: int | None = None
    image_token: int | None = None
    family_prompt: FamilyPrompt | None = None
