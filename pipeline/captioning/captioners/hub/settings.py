"""What a captioner of the common kind needs besides its model. Framework-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...clips.clip import Clip
from ...generation.options import GenerationOptions
from ..text_prompts import TextPrompts, no_text_prompts
from .family import HubFamily
from .prompts import HubPrompt


@dataclass(frozen=True)
class HubSettings:
    """What a captioner needs besides its model.

    longest: a clip without content, with the longest prompt of all clips and still images of common sizes; for
        arithmetic and rehearsals.
    text_prompts: returns the prompts of questions about text for a system prompt, see
        `CheckpointSource.text_prompts_of_request`.
    """

    family: HubFamily
    prompt: HubPrompt
    generation: GenerationOptions
    stop_ids: frozenset[int]
    longest: Clip
    text_prompts: Callable[[str], TextPrompts] = no_text_prompts
