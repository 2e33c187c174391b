"""The flags of the model families, and the source of a checkpoint of any family."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from ..captioners.base import CaptionerSource
from ..captioners.families import FAMILIES, check_flags, family_of
from ..captioners.hub.qwen2_vl import MAX_PIXELS, MIN_PIXELS
from ..process.arguments import positive_int
from ..process.errors import UsageError
from . import model_flags, prompt_flags
from .frame_flags import frame_sampling


def add_family_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the checkpoint, and those that only some families know."""
    model = model_flags.add_model_flags(parser)
    model.add_argument(
        "--family",
        choices=[family.name for family in FAMILIES],
        help="model family; if not given, chosen from the checkpoint's config.json",
    )
    for name, what, default in (("min_pixels", "minimum", MIN_PIXELS), ("max_pixels", "maximum", MAX_PIXELS)):
        model.add_argument(
            f"--{name}",
            type=positive_int,
            help=f"qwen2_vl, qwen2_5_vl: {what} number of pixels of a scaled frame; if not given, {default}",
        )
    model.add_argument(
        "--max_tiles",
        type=positive_int,
        help="internvl: maximum number of tiles of a frame, 1 if not given; with more than one, a thumbnail is added",
    )
    model.add_argument(
        "--vision_tower",
        type=Path,
        help="llava_qwen: folder in which the vision tower is published (siglip-so400m-patch14-384); needed if the "
        "checkpoint has no weights of its tower",
    )


def make_source(flags: argparse.Namespace) -> CaptionerSource:
    """Choose the family, and check the checkpoint and the flags of the model."""
    model_flags.check_model_flags(flags)
    family, reason = family_of(flags.pretrained_model_name_or_path, flags.family)
    check_flags(family, flags)
    module = importlib.import_module(f"pipeline.captioning.captioners.{family.module}")
    sampling = frame_sampling(flags, module.default_sampling(family.name), family.rate_sampling)
    asks = prompt_flags.asks_from_flags(flags, family.default_question)
    generation = model_flags.generation_options(flags)
    try:
        source: CaptionerSource = module.make_source(family.name, flags, asks, sampling, generation)
    except UsageError as error:
        if flags.family is None:
            raise
        raise UsageError(f"{error}; the family is {family.name}: {reason}") from error
    source.family = f"{family.name}: {reason}"
    return source
