"""The command that captions a meta table with any supported model family.

    msrun --worker_num=8 --local_worker_num=8 --join=True --log_dir=msrun_log \\
        pipeline/captioning/caption.py meta.csv --pretrained_model_name_or_path FOLDER --bs 16
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path, as msrun does: make the packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pipeline.captioning.captioners.base import CaptionerSource
from pipeline.captioning.captioners.families import FAMILIES, check_flags, family_of
from pipeline.captioning.captioners.hub.qwen2_vl import MAX_PIXELS, MIN_PIXELS
from pipeline.captioning.process.arguments import positive_int
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run import command, model_flags, options, prompt_flags
from pipeline.captioning.run.model_work import model_work


def make_parser() -> argparse.ArgumentParser:
    parser = options.make_parser("caption.py", "Caption every clip of a meta table.")
    options.add_frame_flags(parser)
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
    return parser


def make_source(flags: argparse.Namespace) -> CaptionerSource:
    """Choose the family, and check the checkpoint and the flags of the model."""
    model_flags.check_model_flags(flags)
    family, reason = family_of(flags.pretrained_model_name_or_path, flags.family)
    check_flags(family, flags)
    module = importlib.import_module(f"pipeline.captioning.captioners.{family.module}")
    sampling = options.frame_sampling(flags, module.default_sampling(family.name), family.rate_sampling)
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


if __name__ == "__main__":
    sys.exit(command.main(make_parser(), model_work(make_source)))
