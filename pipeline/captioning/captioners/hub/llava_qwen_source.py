"""Builds the source of a LLaVA-Video checkpoint in its publishers' layout from the flags of the command.

Differs from `build`: config.json is translated, the vision tower may be in a folder of its own, there is no
preprocessor_config.json, and each clip has a prompt of its own, with the times of its frames. Framework-free.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...clips.clip import Clip
from ...clips.sampling import FrameSampling
from ...generation.options import GenerationOptions
from ...meta.asks import Asks
from ...process.errors import UsageError
from ..checkpoint_config import read_config
from ..clip_prompts import ClipPrompts, check_questions
from ..family_prompts import FAMILY_PROMPTS, FamilyPrompt, PromptText
from ..images.square import Square
from ..prompt_formats import time_instruction
from ..safetensors_files import stored_tensors
from ..tokenizer import PromptTokenizer
from .config_defaults import naming
from .llava_qwen import LlavaQwen, is_of_tower, onevision_config
from .prompts import HubPrompt
from .source import HubSource, source_from_flags

_HALF = (0.5, 0.5, 0.5)
_SOME_TIMES = "[time instruction]"
_TOWER_TYPE = "siglip_vision_model"
_TOWER_ENTRIES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size"),
)


def default_sampling(name: str) -> FrameSampling:
    """64 frames from the first to the last, as in the example of the published model card (`force_sample=True`)."""
    return FrameSampling("uniform", 64)


def make_source(
    name: str, flags: argparse.Namespace, asks: Asks, sampling: FrameSampling, generation: GenerationOptions
) -> HubSource:
    """The source of a checkpoint.

    Raises:
        UsageError: the checkpoint, the folder of its vision tower or an option is not usable.
    """
    folder: Path = flags.pretrained_model_name_or_path
    published = read_config(folder)
    tokenizer = PromptTokenizer(folder)
    tower_folder = _tower_folder(folder, published, flags.vision_tower)
    tower = None if tower_folder is None else _tower_config(tower_folder)
    config = onevision_config(published, tokenizer.size, folder / "config.json", tower)
    # The public program does not read a preprocessor_config.json either.
    side = int(config["vision_config"]["image_size"])
    transform = Square(size=(side, side), mean=_HALF, std=_HALF, vertical_first=True)
    with naming(folder / "config.json"):
        family = LlavaQwen(config, transform)
    if tower_folder is None:
        _check_has_tower(folder, family, published.get("mm_vision_tower"))

    def prompt(longest: Clip) -> HubPrompt:
        return _prompt(name, published, sampling, tokenizer, flags, asks, longest)

    return source_from_flags(family, prompt, flags, sampling, generation, tower_folder)


def _check_has_tower(folder: Path, family: LlavaQwen, tower: object) -> None:
    names = family.weight_names()
    if not any(is_of_tower(names.model_name(tensor.name)) for tensor in stored_tensors(folder)):
        raise UsageError(
            f"{folder} has no weights of its vision tower {tower}; give the folder in which the tower is published as "
            "--vision_tower"
        )


def _prompt(
    name: str,
    published: Mapping[str, Any],
    sampling: FrameSampling,
    tokenizer: PromptTokenizer,
    flags: argparse.Namespace,
    asks: Asks,
    longest: Clip,
) -> HubPrompt:
    check_questions(asks, [*FAMILY_PROMPTS[name].placeholders.values()], system=flags.system)
    has_times = bool(published.get("add_time_instruction", True))

    family_prompt = FamilyPrompt.of(flags.pretrained_model_name_or_path, name)

    def text(time: str, question: str, given: str | None = None) -> PromptText:
        system = (flags.system or "") if given is None else given
        return family_prompt.text(question, system, ["video"], time=time)

    def clip_text(clip: Clip, question: str, system: str | None) -> str:
        # Without a frame rate the times are unknown.
        is_timed = has_times and clip.rate > 0
        time = time_instruction(clip.duration, prompt_times(clip, sampling)) if is_timed else ""
        return text(time, question, system).text

    def pieces(prompt: str) -> list[list[int]]:
        return tokenizer.split_parts(prompt, shown[0].placeholder, 1)

    shown = [text(_SOME_TIMES if has_times else "", question) for question in asks.texts]
    prompts = ClipPrompts(pieces, clip_text, [longest], asks, tokenizer.special_token_in)
    descriptions = tuple(f"{prompt.source}: {prompt.text!r}" for prompt in shown)
    return HubPrompt(prompts, descriptions, tokenizer, counts_prompt=False, family_prompt=family_prompt)


def prompt_times(clip: Clip, sampling: FrameSampling) -> list[float]:
    """The times of a clip's frames as the public program writes them into the prompt.

    These are index / frame rate. If frames are sampled with a step, it writes index / step instead, so 0, 1, 2, ...
    whatever the rate. With the rule `step`, longer videos are sampled uniformly.

    clip: with a frame rate. sampling: by which its frames were sampled.
    """
    if sampling.rule == "step":
        last, step = round(clip.seconds[-1] * clip.rate), sampling.frame_step(clip.rate)
        # Uniform sampling ends with the last frame of the video, which is beyond this index.
        if last == (len(clip.seconds) - 1) * step:
            return [float(number) for number in range(len(clip.seconds))]
    return list(clip.seconds)


def _tower_folder(checkpoint: Path, config: Mapping[str, Any], given: Path | None) -> Path | None:
    """The folder of `--vision_tower`, else that of mm_vision_tower in config.json, if this is a local folder.

    A relative mm_vision_tower is a path in the checkpoint folder: the current directory may have any folder of this
    name.

    Raises:
        UsageError: the folder of `--vision_tower` does not exist.
    """
    if given is not None:
        if not given.is_dir():
            raise UsageError(f"folder of --vision_tower, {given}, does not exist; nothing is downloaded")
        return given
    named = config.get("mm_vision_tower")
    folder = checkpoint / named if isinstance(named, str) and named else checkpoint
    return folder if folder != checkpoint and folder.is_dir() else None


def _tower_config(folder: Path) -> Mapping[str, Any]:
    """The config of a SigLIP tower: `vision_config` of the whole model, or the config of the tower alone.

    Raises:
        UsageError: there is none, or it lacks an entry.
    """
    config = read_config(folder)
    tower = config.get("vision_config", config)
    kind = tower.get("model_type") if isinstance(tower, dict) else tower
    file = folder / "config.json"
    if not isinstance(tower, dict) or kind != _TOWER_TYPE:
        raise UsageError(f"{file}: model_type is {kind!r}; a vision tower has {_TOWER_TYPE!r}")
    missing = [entry for entry in _TOWER_ENTRIES if not isinstance(tower.get(entry), int)]
    if missing:
        raise UsageError(f"{file}: the vision tower has no {', '.join(missing)}")
    return tower
