"""What a captioner of the common kind needs besides its model. Framework-free."""

from __future__ import annotations

from dataclasses import dataclass

from ...clips.clip import Clip
from ...generation.options import GenerationOptions
from .family import HubFamily
from .prompts import HubPrompt


@dataclass(frozen=True)
class HubSettings:
    """What a captioner needs besides its model.

    longest: a clip without content, with the longest prompt of all clips and still images of common sizes; for
        arithmetic and rehearsals.
    """

    family: HubFamily
    prompt: HubPrompt
    generation: GenerationOptions
    stop_ids: frozenset[int]
    longest: Clip
