"""The command that captions a meta table with any supported model family.

    msrun --worker_num=8 --local_worker_num=8 --join=True --log_dir=msrun_log \\
        pipeline/captioning/caption.py meta.csv --pretrained_model_name_or_path FOLDER --bs 16
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from pathlib import Path

if __package__ in (None, ""):  # run by path, as msrun does: make the packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pipeline.captioning.captioners.base import CaptionerSource
from pipeline.captioning.captioners.families import FAMILIES, check_flags, family_of
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run import command, options

logger = logging.getLogger("pipeline.captioning.caption")

_EPILOG = (
    "Exit code 0: done, also if single clips failed; 1: the run failed or no row could be captioned (the journals are "
    "kept; run the same command again to resume); 2: usage error."
)


def make_parser() -> argparse.ArgumentParser:
    parser = options.make_parser("caption.py", "Caption every clip of a meta table.", epilog=_EPILOG)
    options.add_frame_flags(parser)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--pretrained_model_name_or_path",
        type=Path,
        required=True,
        help="folder of the checkpoint; nothing is downloaded",
    )
    model.add_argument(
        "--family",
        choices=[family.name for family in FAMILIES],
        help="model family; if not given, chosen from the checkpoint's config.json",
    )
    model.add_argument(
        "--use_lora", action="store_true", help="require LoRA weights, in --weight_dir or in the checkpoint"
    )
    model.add_argument("--weight_dir", type=Path, help="folder of LoRA weights; requires --use_lora")
    model.add_argument(
        "--lora_alpha",
        type=options.number(minimum=0, above=True),
        help="alpha of the LoRA weights; required if no file stores it",
    )
    model.add_argument(
        "--pooling_shape", type=options.pooling_shape, help="pllava: shape of the visual tokens, as time-rows-columns"
    )
    model.add_argument(
        "--min_pixels", type=options.positive_int, help="qwen2_vl, qwen2_5_vl: minimum pixels of a frame"
    )
    model.add_argument(
        "--max_pixels", type=options.positive_int, help="qwen2_vl, qwen2_5_vl: maximum pixels of a frame"
    )
    model.add_argument(
        "--max_tiles",
        type=options.positive_int,
        help="internvl: maximum number of tiles of a frame; with more than one tile, a thumbnail is added (default: 1)",
    )
    model.add_argument(
        "--vision_tower",
        type=Path,
        help="llava_qwen: folder in which the vision tower is published (siglip-so400m-patch14-384); needed if the "
        "checkpoint has no weights of its tower",
    )
    parser.set_defaults(question=None, system=None)  # the family has its own
    return parser


def make_source(flags: argparse.Namespace) -> CaptionerSource:
    """Choose the family, and check the checkpoint and the flags of the model."""
    if flags.weight_dir is not None and not flags.use_lora:
        raise UsageError("--weight_dir is only read with --use_lora; give both flags or neither")
    folder = flags.pretrained_model_name_or_path
    if not folder.is_dir():
        raise UsageError(f"checkpoint folder {folder} does not exist; nothing is downloaded")
    family, reason = family_of(folder, flags.family)
    names = {name for other in FAMILIES for name in other.flags}
    check_flags(family, {name: getattr(flags, name) for name in sorted(names)})
    module = importlib.import_module(f"pipeline.captioning.captioners.{family.module}")
    logger.info("family %s: %s", family.name, reason)
    sampling = options.frame_sampling(flags, module.default_sampling(family.name), family.rate_sampling)
    source: CaptionerSource = module.make_source(family.name, flags, sampling, options.generation_options(flags))
    return source


if __name__ == "__main__":
    sys.exit(command.main(make_parser(), make_source))
