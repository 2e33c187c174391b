"""Builds the source of a checkpoint in the layout of transformers from the flags of the command. Framework-free."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
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
from ..images import from_folder
from ..images.base import ImageTransform
from ..tokenizer import PromptTokenizer
from ..weights import WeightNames
from . import blip2, internvl, janus, llava, llava_next, llava_next_video, llava_onevision, qwen2_vl
from .family import HubFamily
from .prompts import ClipPrompts
from .source import HubOptions, HubPrompt, HubSource

_TYPICAL_SIZE = (1280, 720)
"""Width and height of the frames that arithmetic and rehearsals assume."""


@dataclass(frozen=True)
class _Recipe:
    """How the source of a family is made.

    build: the family, from config and frame transform. kind: of the frame transform (`images.KINDS`).
    names: the names of the weights, from the config.
    block: `image` (one block for each frame) or `video` (one block for each clip).
    sampling: which frames are sampled by default.
    counts_prompt: whether the published program counts tokens of the prompt for the repetition penalty.
    """

    build: Callable[[Mapping[str, Any], ImageTransform], HubFamily]
    kind: str
    names: Callable[[Mapping[str, Any]], WeightNames]
    block: str
    sampling: FrameSampling
    counts_prompt: bool = True


def _normalised(cls: Callable[..., HubFamily]) -> Callable[[Mapping[str, Any], ImageTransform], HubFamily]:
    return lambda config, transform: cls(config, transform, transform.mean, transform.std)


_IMAGES, _VIDEO, _POINTS = FrameSampling("points", 3), FrameSampling("uniform", 8), FrameSampling("points", 1)
_QWEN = _Recipe(
    _normalised(qwen2_vl.Qwen2Vl),
    "patches_of_two",
    lambda config: qwen2_vl.weight_names(),
    "video",
    FrameSampling("rate", 0, fps=2.0, max_frames=32, multiple=2),
)
_RECIPES = {
    "llava": _Recipe(_normalised(llava.Llava), "crop", llava.weight_names, "image", _POINTS),
    "llava_next": _Recipe(_normalised(llava_next.LlavaNext), "tiles", llava_next.weight_names, "image", _IMAGES),
    "llava_next_video": _Recipe(
        _normalised(llava_next_video.LlavaNextVideo), "crop", llava_next_video.weight_names, "video", _VIDEO
    ),
    "llava_onevision": _Recipe(
        _normalised(llava_onevision.LlavaOnevision), "square", llava_onevision.weight_names, "video", _VIDEO
    ),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "blip-2": _Recipe(_normalised(blip2.Blip2), "square", lambda config: blip2.weight_names(), "image", _POINTS),
    "janus": _Recipe(_normalised(janus.Janus), "padded_square", lambda config: janus.weight_names(), "image", _POINTS),
    "internvl": _Recipe(
        _normalised(internvl.InternVl), "internvl", lambda config: internvl.weight_names(), "image", _VIDEO
    ),
}


def default_sampling(name: str) -> FrameSampling:
    """Which frames a family samples unless flags say otherwise."""
    return _RECIPES[name].sampling


def make_source(
    name: str, flags: argparse.Namespace, sampling: FrameSampling, generation: GenerationOptions
) -> HubSource:
    """The source of a checkpoint.

    name: of the family. sampling: which frames are sampled.

    Raises:
        UsageError: the checkpoint or an option is not usable.
    """
    folder: Path = flags.pretrained_model_name_or_path
    recipe, config = _RECIPES[name], read_config(folder)
    transform = from_folder(folder, recipe.kind, **_transform_options(name, flags))
    family = recipe.build(config, transform)
    tokenizer = PromptTokenizer(folder)
    typical = _typical_clip(transform, sampling)
    blocks = len(family.prompt_lengths(typical))
    text = prompt_text(folder, name, flags.question, flags.system, [recipe.block] * blocks, frames=sampling.most_frames)

    def pieces(prompt: str) -> list[list[int]]:
        return tokenizer.split(prompt, text.placeholder, blocks)

    prompts = ClipPrompts(pieces, lambda clip: text.text, [typical])
    return HubSource(
        family,
        HubOptions(folder, flags.weight_dir, flags.use_lora, flags.lora_alpha),
        HubPrompt(prompts, f"{text.source}: {text.text!r}", recipe.counts_prompt),
        tokenizer,
        frozenset(tokenizer.stop_ids()),
        recipe.names(config),
        generation,
        sampling,
        flags.short_side or 0,
        typical,
        _max_positions(config),
    )


def _transform_options(name: str, flags: argparse.Namespace) -> dict[str, Any]:
    if not name.startswith("qwen"):
        return {}
    low, high = flags.min_pixels or qwen2_vl.MIN_PIXELS, flags.max_pixels or qwen2_vl.MAX_PIXELS
    return {"min_pixels": low, "max_pixels": high}


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
