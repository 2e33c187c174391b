"""What a captioner with a model needs besides its model. Framework-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..clips.clip import Clip
from ..generation.options import GenerationOptions
from .clip_prompts import ClipPrompts
from .text_prompts import TextPrompts, no_text_prompts
from .tokenizer import CheckpointTokenizer


@dataclass(frozen=True)
class CaptionerSettings:
    """What a captioner needs besides its model.

    longest: a clip without content, with the longest prompts of all clips of common sizes; for arithmetic and
        rehearsals. units: what the vision tower processes of it, in units such as frames.
    unit_bytes: bytes of the intermediate values of one unit in the vision stage.
    prompts_each_block: number of prompts of the longest clip if each block has a prompt of its own, else 0.
    needs_generate: whether only transformers' `generate` can run the text model.
    shares_prefix: compute keys and values of the text before the visual tokens once, not for every clip.
    text_prompts: returns the prompts of questions about text for a system prompt, see
        `CheckpointSource.text_prompts_of_request`.
    """

    prompts: ClipPrompts
    tokenizer: CheckpointTokenizer
    generation: GenerationOptions
    stop_ids: frozenset[int]
    longest: Clip
    units: int
    unit_bytes: int
    prompts_each_block: int = 0
    needs_generate: bool = False
    shares_prefix: bool = True
    text_prompts: Callable[[str], TextPrompts] = no_text_prompts
