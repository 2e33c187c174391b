"""Builds the source of a checkpoint in the layout of transformers from the flags of the command. Framework-free."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...clips.clip import Clip
from ...clips.sampling import FrameSampling
from ...generation.options import GenerationOptions
from ..base import FrameTransform
from ..checkpoint_config import read_config
from ..family_prompts import prompt_text
from ..images.base import ImageTransform
from ..tokenizer import PromptTokenizer
from ..weights import WeightNames
from .family import HubFamily
from .prompts import ClipPrompts
from .source import HubOptions, HubPrompt, HubSource

_TYPICAL_SIZE = (1280, 720)
"""Width and height of the frames that arithmetic and rehearsals assume."""


@dataclass(frozen=True)
class FamilyParts:
    """What a family's module gives for a checkpoint.

    block: `image` (one block for each frame) or `video` (one block for each clip).
    counts_prompt: whether the published program counts tokens of the prompt for the repetition penalty.
    """

    family: HubFamily
    transform: ImageTransform
    names: WeightNames
    block: str
    counts_prompt: bool


def make_hub_source(
    name: str,
    flags: argparse.Namespace,
    sampling: FrameSampling,
    generation: GenerationOptions,
    make_parts: Callable[[Path, dict[str, Any], argparse.Namespace], FamilyParts],
) -> HubSource:
    """The source of a checkpoint.

    name: of the family. sampling: which frames are sampled.

    Raises:
        UsageError: the checkpoint or an option is not usable.
    """
    folder: Path = flags.pretrained_model_name_or_path
    config = read_config(folder)
    parts = make_parts(folder, config, flags)
    tokenizer = PromptTokenizer(folder)
    typical = _typical_clip(parts.transform, sampling)
    blocks = len(parts.family.block_lengths(typical))
    frames = sampling.most_frames
    text = prompt_text(folder, name, flags.question, flags.system, [parts.block] * blocks, frames=frames)

    def pieces(prompt: str) -> list[list[int]]:
        return tokenizer.split(prompt, text.placeholder, blocks)

    prompts = ClipPrompts(pieces, lambda clip: text.text, [typical])
    return HubSource(
        parts.family,
        HubOptions(folder, flags.weight_dir, flags.use_lora, flags.lora_alpha),
        HubPrompt(prompts, f"{text.source}: {text.text!r}", parts.counts_prompt),
        tokenizer,
        frozenset(tokenizer.stop_ids()),
        parts.names,
        generation,
        sampling,
        flags.short_side or 0,
        typical,
        _max_positions(config),
    )


def _typical_clip(transform: FrameTransform, sampling: FrameSampling) -> Clip:
    count = sampling.most_frames
    frame = transform([Image.new("RGB", _TYPICAL_SIZE)])
    frames = np.repeat(frame, count, axis=0)
    width, height = _TYPICAL_SIZE
    seconds = tuple(float(i) for i in range(count))
    return Clip(0, "", frames, tuple(range(count)), seconds=seconds, duration=float(count), size=(height, width))


def _max_positions(config: dict[str, Any]) -> int:
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)
    return int(text.get("max_position_embeddings", config.get("max_position_embeddings", 32768)))
