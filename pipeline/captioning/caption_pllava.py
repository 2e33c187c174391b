"""The command that captions a meta table with PLLaVA: it defines the flags of the model and starts the run.

    msrun --worker_num=8 --local_worker_num=8 --join=True --log_dir=msrun_log \\
        pipeline/captioning/caption_pllava.py meta.csv --bs 16
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path, as msrun does: make the packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from pipeline.captioning.captioners.pllava.source import PllavaOptions, PllavaSource
from pipeline.captioning.process.errors import UsageError
from pipeline.captioning.run import command, options

_EPILOG = (
    "Exit code 0: done, also if single clips failed; 1: the run failed or no row could be captioned (the journals are "
    "kept; run the same command again to resume); 2: usage error."
)


def make_parser() -> argparse.ArgumentParser:
    parser = options.make_parser("caption_pllava.py", "Caption every clip of a meta table with PLLaVA.", epilog=_EPILOG)
    model = parser.add_argument_group("model")
    model.add_argument(
        "--pretrained_model_name_or_path",
        type=Path,
        default=Path("./pretrained_models/pllava"),
        help="folder of the checkpoint",
    )
    model.add_argument(
        "--pooling_shape",
        type=options.pooling_shape,
        help="shape of the visual tokens of a clip, as time-rows-columns; if not given, the shape in the checkpoint's "
        "config, else 16-12-12",
    )
    model.add_argument(
        "--num_frames", type=options.positive_int, default=4, help="number of frames sampled from each clip"
    )
    model.add_argument(
        "--use_lora",
        action="store_true",
        help="require LoRA weights, in --weight_dir or in the checkpoint; LoRA weights in the checkpoint are used "
        "without this flag, too",
    )
    model.add_argument(
        "--weight_dir",
        type=Path,
        help="folder of LoRA weights, or of LoRA weights and other trained weights; requires --use_lora",
    )
    model.add_argument(
        "--lora_alpha",
        type=options.number(minimum=0, above=True),
        help="alpha of the LoRA weights; required if no file stores it, as in the published PLLaVA checkpoints "
        "(pllava-7b: 4)",
    )
    return parser


def make_source(flags: argparse.Namespace) -> PllavaSource:
    """Check the checkpoint and the flags of the model."""
    if flags.weight_dir is not None and not flags.use_lora:
        raise UsageError("--weight_dir is only read with --use_lora; give both flags or neither")
    prompt = options.prompt_options(flags)
    return PllavaSource(
        PllavaOptions(
            checkpoint=flags.pretrained_model_name_or_path,
            num_frames=flags.num_frames,
            question=prompt.question,
            system=prompt.system,
            pooling_shape=flags.pooling_shape,
            weight_folder=flags.weight_dir,
            use_lora=flags.use_lora,
            lora_alpha=flags.lora_alpha,
            conv_mode=prompt.conv_mode,
        ),
        options.generation_options(flags),
    )


if __name__ == "__main__":
    sys.exit(command.main(make_parser(), make_source))
