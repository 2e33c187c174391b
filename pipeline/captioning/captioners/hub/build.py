"""Builds the source of a checkpoint in the layout of transformers from the flags of the command. Framework-free."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...clips.clip import Clip
from ...clips.sampling import FrameSampling
from ...generation.options import GenerationOptions
from ...meta.asks import Asks
from ...process.errors import UsageError
from ..checkpoint_config import read_config
from ..clip_prompts import LONGEST_KNOWN, ClipPrompts, check_questions
from ..families import FAMILIES
from ..family_prompts import FAMILY_PROMPTS, FamilyPrompt, PromptText
from ..images import KINDS, from_folder
from ..images.internvl import MAX_TILES
from ..images.tiles import Tiles
from ..tokenizer import PromptTokenizer
from . import blip2, internvl, janus, llava, llava_next, llava_next_video, llava_onevision, qwen2_vl
from .config_defaults import completed, naming
from .family import HubFamily
from .frames import first_frame
from .prompts import HubPrompt
from .source import HubSource, source_from_flags


@dataclass(frozen=True)
class _Recipe:
    """How the source of a family is made.

    build: the family, from config and frame transform.
    kind: of the frame transform (`images.KINDS`). siglip_kind: for a SigLIP tower, if it differs.
    block: `image`: each frame is a block, an image in the prompt; `video`: a clip is a block; `frames`: each frame is a
        block, and the prompt describes a video.
    sampling: which frames are sampled by default.
    transform_options: entries of preprocessor_config.json to override, from the flags.
    image_kind: of the transform of still images; None if they are prepared as frames are.
    image_options: as `transform_options`, for still images.
    several_kind: of the transform of one of several still images in a prompt; None if it is that of one alone.
    """

    build: Callable[[Mapping[str, Any], Any], HubFamily]
    kind: str
    block: str
    sampling: FrameSampling
    siglip_kind: str | None = None
    transform_options: Callable[[argparse.Namespace], dict[str, Any]] = lambda flags: {}
    image_kind: str | None = None
    image_options: Callable[[argparse.Namespace], dict[str, Any]] = lambda flags: {}
    several_kind: str | None = None

    def kind_for(self, config: Mapping[str, Any]) -> str:
        """The kind of the frame transform for a completed config."""
        is_siglip = config["vision_config"].get("model_type") == "siglip_vision_model"
        return self.siglip_kind if is_siglip and self.siglip_kind else self.kind


def _pixel_limits(flags: argparse.Namespace) -> dict[str, int]:
    low, high = flags.min_pixels or qwen2_vl.MIN_PIXELS, flags.max_pixels or qwen2_vl.MAX_PIXELS
    if low > high:
        texts = [
            f"--{name} {value}{'' if getattr(flags, name) else ' (the default)'}"
            for name, value in (("min_pixels", low), ("max_pixels", high))
        ]
        raise UsageError(f"{texts[0]} is more than {texts[1]}; give both")
    return {"min_pixels": low, "max_pixels": high}


def _image_pixel_limits(flags: argparse.Namespace) -> dict[str, int]:
    """If only one flag is given, the default of the other is adapted to it. `_pixel_limits` checks the flags."""
    low = flags.min_pixels or min(qwen2_vl.IMAGE_MIN_PIXELS, flags.max_pixels or qwen2_vl.IMAGE_MAX_PIXELS)
    return {"min_pixels": low, "max_pixels": flags.max_pixels or max(low, qwen2_vl.IMAGE_MAX_PIXELS)}


def _tile_limits(flags: argparse.Namespace) -> dict[str, Any]:
    tiles = flags.max_tiles or 1
    if tiles > MAX_TILES:
        raise UsageError(f"--max_tiles {tiles} is more than {MAX_TILES}; give a smaller number, for example 12")
    return {"crop_to_patches": tiles > 1, "max_patches": tiles, "min_patches": 1}


def _image_tile_limits(flags: argparse.Namespace) -> dict[str, Any]:
    """Without the flag, the limits of the file, as InternVLProcessor of transformers has it for images."""
    return {"crop_to_patches": True} if flags.max_tiles is None else _tile_limits(flags)


_IMAGES, _VIDEO, _POINTS = FrameSampling("points", 3), FrameSampling("uniform", 8), FrameSampling("points", 1)
_QWEN = _Recipe(
    qwen2_vl.Qwen2Vl,
    "patches_of_two",
    "video",
    FrameSampling("rate", 0, fps=2.0, max_frames=32, multiple=2),
    transform_options=_pixel_limits,
    image_kind="patches_of_two",
    image_options=_image_pixel_limits,
)
_RECIPES = {
    "llava": _Recipe(llava.Llava, "crop", "image", _POINTS, siglip_kind="square"),
    "llava_next": _Recipe(llava_next.LlavaNext, "tiles", "image", _IMAGES),
    "llava_next_video": _Recipe(llava_next_video.LlavaNextVideo, "crop", "video", _VIDEO, image_kind="tiles"),
    "llava_onevision": _Recipe(
        llava_onevision.LlavaOnevision,
        "square",
        "video",
        _VIDEO,
        image_kind="onevision_tiles",
        several_kind="onevision_square",
    ),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "blip-2": _Recipe(blip2.Blip2, "square", "image", _POINTS),
    "janus": _Recipe(janus.Janus, "padded_square", "image", _POINTS),
    "internvl": _Recipe(
        internvl.InternVl,
        "internvl",
        "frames",
        _VIDEO,
        transform_options=_tile_limits,
        image_kind="internvl",
        image_options=_image_tile_limits,
    ),
}


def default_sampling(name: str) -> FrameSampling:
    """Which frames a family samples unless flags say otherwise."""
    return _RECIPES[name].sampling


def make_family(
    name: str, folder: Path, image_options: Mapping[str, Any] | None = None, **transform_options: Any
) -> HubFamily:
    """The family of a checkpoint folder.

    transform_options: entries of preprocessor_config.json to override. image_options: for still images.

    Raises:
        UsageError: config.json or preprocessor_config.json is missing or not usable.
    """
    recipe, path = _RECIPES[name], folder / "config.json"
    config = completed(read_config(folder), name, path)
    kind = recipe.kind_for(config)
    transform = from_folder(folder, kind, **transform_options)
    if recipe.block == "video":
        KINDS[kind].check_video_file(folder)
    image_transform = from_folder(folder, recipe.image_kind, **(image_options or {})) if recipe.image_kind else None
    with naming(path):
        for made in (transform, image_transform):
            if isinstance(made, Tiles):
                _check_pinpoints(config, made)
        family = recipe.build(config, transform)
    family.image_transform = image_transform
    family.several_transform = from_folder(folder, recipe.several_kind) if recipe.several_kind else None
    return family


def make_source(
    name: str, flags: argparse.Namespace, asks: Asks, sampling: FrameSampling, generation: GenerationOptions
) -> HubSource:
    """The source of a checkpoint.

    name: of the family. sampling: which frames are sampled.

    Raises:
        UsageError: the checkpoint or an option is not usable.
    """
    folder: Path = flags.pretrained_model_name_or_path
    recipe = _RECIPES[name]
    family = make_family(name, folder, recipe.image_options(flags), **recipe.transform_options(flags))

    def prompt(longest: Clip) -> HubPrompt:
        return _prompt(name, family, flags, asks, longest)

    return source_from_flags(family, prompt, flags, sampling, generation)


def _prompt(name: str, family: HubFamily, flags: argparse.Namespace, asks: Asks, longest: Clip) -> HubPrompt:
    recipe, folder = _RECIPES[name], flags.pretrained_model_name_or_path
    default_question = next(about.default_question for about in FAMILIES if about.name == name)
    check_questions(asks, [*FAMILY_PROMPTS[name].placeholders.values()], default_question, flags.system)
    tokenizer, family_prompt = PromptTokenizer(folder), FamilyPrompt.of(folder, name)
    # transformers divides images of InternVL into tiles, but not the frames of a video
    as_images = recipe.block == "image" or (flags.max_tiles or 1) > 1

    def made(blocks: int, is_image: bool, question: str, system: str) -> PromptText:
        kinds = ["image"] * blocks if as_images or is_image else ["video"]
        return family_prompt.text(question, system, kinds, frames=blocks)

    known = functools.lru_cache(maxsize=1000)(made)  # questions may differ from row to row

    def text(blocks: int, is_image: bool, question: str, given: str | None = None) -> PromptText:
        system = (flags.system or "") if given is None else given
        make = known if len(question) + len(system) <= LONGEST_KNOWN else made
        return make(blocks, is_image, question, system)

    # A question has none of the family's placeholders, so a prompt has those of one kind.
    frames_as, image_as = (text(1, is_image, asks.texts[0]).placeholder for is_image in (False, True))

    def pieces(prompt: str) -> list[list[int]]:
        placeholder = image_as if image_as in prompt else frames_as
        return tokenizer.split(prompt, placeholder, prompt.count(placeholder) if placeholder else 1)

    def of_clip(clip: Clip, question: str, system: str | None = None) -> PromptText:
        return text(len(family.prompt_lengths(clip)), clip.is_image, question, system)

    def of_images(images: int, question: str, system: str | None) -> str:
        return text(images, True, question, system).text

    def token(placeholder: str) -> int | None:
        return tokenizer.token_id(placeholder) if placeholder else family.config.get("image_token_index")

    samples = [longest, first_frame(longest)]
    prompts = ClipPrompts(
        pieces,
        lambda clip, question, system: of_clip(clip, question, system).text,
        samples,
        asks,
        tokenizer.special_token_in,
        None if family.images_are_frames else of_images,
    )
    shown = [of_clip(longest, question) for question in asks.texts]
    descriptions = tuple(f"{prompt.source}: {prompt.text!r}" for prompt in shown)
    return HubPrompt(prompts, descriptions, tokenizer, True, token(frames_as), token(image_as), family_prompt)


def _check_pinpoints(config: Mapping[str, Any], transform: Tiles) -> None:
    """The model computes the tiles of a frame again, from its own list of resolutions."""
    pinpoints = [list(pair) for pair in transform.image_grid_pinpoints]
    if pinpoints != config["image_grid_pinpoints"]:
        raise UsageError(
            f"image_grid_pinpoints are {config['image_grid_pinpoints']}, but {pinpoints} in preprocessor_config.json; "
            "take both files from the published checkpoint"
        )
